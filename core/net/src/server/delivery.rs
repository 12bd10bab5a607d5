//! One event's batches on their way out, without keeping what the client does not take.
//!
//! A client that pauses in the middle of a frame would keep the frame's batches in memory for as
//! long as it likes, and there may be thousands of such clients. So they are let go after a while,
//! all but the next few bytes; once the client has taken those, the subscription delivers the same
//! batches again and the frame goes on where it stopped.

use std::time::Duration;

use bytes::{Buf, Bytes};
use millstream_service::{ServiceError, Subscription};
use millstream_types::limits::FRAME_BODY_BYTES_MAX;
use millstream_types::{ErrorCode, Offset};
use millstream_wire::api::batches_prefix;
use millstream_wire::frame::{BATCHES_PREFIX_BYTES, FrameHeader, FrameKind};
use quinn::{SendStream, WriteError};
use tokio::time::Instant;

use crate::counters::{Counters, add};
use crate::frames::frame_pieces;

/// A client that takes nothing for so long has its batches let go.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// While others wait for memory, one that has not taken all for so long, too.
const TURN_MAX: Duration = Duration::from_secs(2);
/// How often a client that takes nothing is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What is kept of a frame whose batches were let go: it is sent before they are asked for again,
/// so that nothing is read for a client that takes nothing.
const KEPT_BYTES: usize = 4 * 1024;

/// Why an event was not sent to its end.
pub(crate) enum Undelivered {
    /// The client has enough, or is gone.
    Stopped,
    /// Nothing of the event was sent: the client can be told why.
    Refused(ServiceError),
    /// In the middle of a frame, where nothing else can be said.
    Broken(ServiceError),
}

impl From<WriteError> for Undelivered {
    fn from(_: WriteError) -> Self {
        Self::Stopped
    }
}

/// What is to be sent, in pieces, and how much of it was.
struct Outgoing {
    pieces: Vec<Bytes>,
    /// The first piece that is not sent to its end.
    first: usize,
    sent_bytes: usize,
    left_bytes: usize,
    /// What was copied to gather short pieces.
    copied_bytes: usize,
}

/// Sends the batches of the subscription's last event.
pub(crate) async fn deliver<S: Subscription>(
    send: &mut SendStream,
    counters: &Counters,
    subscription: &mut S,
    batches: Vec<Bytes>,
    high_watermark: Offset,
) -> Result<(), Undelivered> {
    let mut outgoing = Outgoing::new(&batches, high_watermark).map_err(Undelivered::Refused)?;
    drop(batches);
    let total_bytes = outgoing.left_bytes;
    add(&counters.bytes_copied, outgoing.copied_bytes);
    while !outgoing.send(send, subscription).await? {
        add(&counters.batches_let_go, 1);
        let kept = outgoing.let_go();
        subscription.pause();
        let sent_bytes = outgoing.sent_bytes + kept.len();
        send.write_chunk(kept).await?;
        if sent_bytes == total_bytes {
            break;
        }
        let stopped = send.stopped();
        let batches = tokio::select! {
            biased;
            _ = stopped => return Err(Undelivered::Stopped),
            batches = subscription.again() => batches.map_err(Undelivered::Broken)?,
        };
        outgoing = Outgoing::new(&batches, high_watermark).map_err(Undelivered::Broken)?;
        if outgoing.left_bytes != total_bytes {
            let message = "the service delivers other batches than before";
            let error = ServiceError::new(ErrorCode::Internal, message);
            return Err(Undelivered::Broken(error));
        }
        outgoing.skip(sent_bytes);
    }
    add(&counters.bytes_out, total_bytes);
    Ok(())
}

impl Outgoing {
    fn new(batches: &[Bytes], high_watermark: Offset) -> Result<Self, ServiceError> {
        let prefix = batches_prefix(high_watermark);
        let (mut pieces, mut copied_bytes) = (Vec::with_capacity(batches.len() + 1), 0);
        for frame in split(batches) {
            let body_bytes = BATCHES_PREFIX_BYTES + frame.iter().map(Bytes::len).sum::<usize>();
            let header = FrameHeader::encode(FrameKind::Batches, body_bytes).map_err(|error| {
                tracing::error!(%error, "the service delivered more than a frame can carry");
                ServiceError::new(ErrorCode::Internal, error.to_string())
            })?;
            copied_bytes += frame_pieces(&mut pieces, header, &prefix, frame);
        }
        let left_bytes = pieces.iter().map(Bytes::len).sum();
        Ok(Self { pieces, first: 0, sent_bytes: 0, left_bytes, copied_bytes })
    }

    /// Sends on; false where the client takes nothing and the batches must be let go.
    async fn send<S: Subscription>(
        &mut self,
        send: &mut SendStream,
        // Exclusive, since it need not be shareable between threads.
        subscription: &mut S,
    ) -> Result<bool, WriteError> {
        let begun = Instant::now();
        let mut moved = begun;
        while self.left_bytes > 0 {
            let pieces = self.pieces.get_mut(self.first..).unwrap_or_default();
            let write = send.write_chunks(pieces);
            let now = match tokio::time::timeout(LOOK_EVERY, write).await {
                Ok(written) => {
                    let written = written?;
                    self.first += written.chunks;
                    self.sent_bytes += written.bytes;
                    self.left_bytes -= written.bytes;
                    moved = Instant::now();
                    moved
                }
                Err(_elapsed) => Instant::now(),
            };
            let paused = now - moved >= PAUSE_MAX;
            let over = now - begun >= TURN_MAX && subscription.keeps_others_waiting();
            if self.left_bytes > 0 && (paused || over) && subscription.is_repeatable() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Drops all but a copy of the next bytes.
    fn let_go(&mut self) -> Bytes {
        let mut kept = Vec::with_capacity(KEPT_BYTES.min(self.left_bytes));
        for piece in self.pieces.drain(..).skip(self.first) {
            let count = piece.len().min(KEPT_BYTES - kept.len());
            kept.extend_from_slice(piece.get(..count).unwrap_or_default());
        }
        Bytes::from(kept)
    }

    /// Counts as sent what was.
    fn skip(&mut self, sent_bytes: usize) {
        let mut left = sent_bytes;
        for piece in &mut self.pieces {
            let count = piece.len().min(left);
            piece.advance(count);
            left -= count;
            if !piece.is_empty() {
                break;
            }
            self.first += 1;
        }
        self.sent_bytes = sent_bytes;
        self.left_bytes = self.left_bytes.saturating_sub(sent_bytes);
    }
}

/// Cuts pieces into runs that each fit a frame. Pieces hold whole batches, so that any cut between
/// two of them is sound.
fn split(mut batches: &[Bytes]) -> Vec<&[Bytes]> {
    let mut frames = Vec::with_capacity(1);
    while !batches.is_empty() {
        let mut bytes = BATCHES_PREFIX_BYTES;
        let mut count = 0;
        for batch in batches {
            bytes += batch.len();
            if count > 0 && bytes > FRAME_BODY_BYTES_MAX {
                break;
            }
            count += 1;
        }
        let (frame, rest) = batches.split_at(count);
        frames.push(frame);
        batches = rest;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_into_frames_without_losing_any() {
        let large = Bytes::from(vec![0; FRAME_BODY_BYTES_MAX - BATCHES_PREFIX_BYTES - 10]);
        let small = Bytes::from_static(b"0123456789");
        let pieces = [small.clone(), large.clone(), small.clone(), small, large];
        let lengths: Vec<usize> = split(&pieces).iter().map(|frame| frame.len()).collect();
        assert_eq!(lengths, [2, 2, 1]);
        assert!(split(&[]).is_empty());
    }

    #[test]
    fn a_frame_goes_on_at_any_place() {
        let lengths = [(1, 10), (2, 5000), (3, 20), (4, 9000)];
        let batches = lengths.map(|(byte, length)| Bytes::from(vec![byte; length])).to_vec();
        let flat = |outgoing: &Outgoing| outgoing.pieces.concat();
        let whole = flat(&Outgoing::new(&batches, Offset::ZERO).unwrap());
        for sent_bytes in (0..whole.len()).step_by(7) {
            let mut outgoing = Outgoing::new(&batches, Offset::ZERO).unwrap();
            outgoing.skip(sent_bytes);
            assert_eq!(flat(&outgoing), whole[sent_bytes..]);
            assert_eq!(outgoing.left_bytes, whole.len() - sent_bytes);
            let kept = outgoing.let_go();
            assert_eq!(kept, &whole[sent_bytes..][..kept.len()]);
            assert_eq!(kept.len(), KEPT_BYTES.min(whole.len() - sent_bytes));
        }
    }
}
