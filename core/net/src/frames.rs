//! Frames on a QUIC stream: gathering them out of the transport's chunks, and sending them with
//! few and large pieces.

#[cfg(fuzzing)]
pub(crate) mod fuzz;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use millstream_types::limits::FRAME_HEADER_BYTES;
use millstream_wire::frame::{FrameError, FrameHeader, FrameKind};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use thiserror::Error;
use tokio::time::Instant;

use crate::counters::{Counters, add};
use crate::memory::{Held, Memory, PATIENCE, PAUSE_MAX};

/// Chunks taken out of the transport at once: each is one packet's payload.
const CHUNKS: usize = 32;
/// What a claimed length may make us reserve once some of the body arrived. Room that is not filled
/// is address space; what fills it is accounted for.
const TRUSTED_BYTES: usize = 1024 * 1024;
/// Pieces up to this size are copied together before they are sent: the transport walks its list
/// of pieces for every packet, which costs more than copying short ones.
const GATHER_BYTES: usize = 2048;
/// While frames wait for memory, how often those that hold some look whether they are late.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why no frame can be read.
#[derive(Debug, Error)]
pub(crate) enum ReadFrameError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a {0:?} frame cannot stand here")]
    Misplaced(FrameKind),
    #[error("the stream ends inside a frame")]
    Truncated,
    #[error("a frame took longer than {} s to arrive", .0.as_secs())]
    Late(Duration),
    #[error("a frame came too slowly while others wait for memory")]
    Slow,
    #[error("the stream was lost: {0}")]
    Lost(ReadError),
}

/// A whole frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) body: BytesMut,
    /// Its share of the bounded memory; drop it once the frame is answered.
    pub(crate) held: Option<Held>,
}

#[derive(Debug)]
enum State {
    Header {
        bytes: [u8; FRAME_HEADER_BYTES],
        length: usize,
    },
    /// The header agreed; the connection has not granted the body yet.
    Wanted {
        kind: FrameKind,
        body_bytes: u32,
    },
    Body {
        kind: FrameKind,
        body_bytes: usize,
        body: BytesMut,
        held: Option<Held>,
    },
    Skip {
        left: usize,
    },
}

const BETWEEN_FRAMES: State = State::Header { bytes: [0; FRAME_HEADER_BYTES], length: 0 };

/// Where a reader's bytes come from: a stream of the transport; in fuzzing, a script.
pub(crate) trait Source: Send {
    /// Puts what has arrived into the first of `chunks` and returns how many that are, at least
    /// one; `None` once the peer has finished. Cancel-safe.
    fn read_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> impl Future<Output = Result<Option<usize>, ReadError>> + Send;
}

impl Source for RecvStream {
    fn read_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> impl Future<Output = Result<Option<usize>, ReadError>> + Send {
        Self::read_chunks(self, chunks)
    }
}

/// Reads frames off one stream. All progress is kept in here, so that [`FrameReader::next`] may be
/// cancelled and called again.
#[derive(Debug)]
pub(crate) struct FrameReader<S = RecvStream> {
    recv: S,
    chunks: [Bytes; CHUNKS],
    next_chunk: usize,
    state: State,
    memory: Option<Memory>,
    /// Kinds that may come; `None` leaves it to the caller.
    accepted: Option<&'static [FrameKind]>,
    frame_timeout: Duration,
    /// When the frame began, moved on by what it waited for memory.
    frame_begun: Option<Instant>,
    waiting_since: Option<Instant>,
    counters: Arc<Counters>,
}

impl FrameReader {
    /// Tells the peer that nothing more will be read.
    pub(crate) fn stop(&mut self, code: u32) {
        // An error means that the stream is over already.
        drop(self.recv.stop(code.into()));
    }
}

impl<S: Source> FrameReader<S> {
    /// A reader without an account: what it may hold is bounded by its caller's pace.
    pub(crate) fn new(recv: S, counters: Arc<Counters>, frame_timeout: Duration) -> Self {
        Self {
            recv,
            chunks: [const { Bytes::new() }; CHUNKS],
            next_chunk: CHUNKS,
            state: BETWEEN_FRAMES,
            memory: None,
            accepted: None,
            frame_timeout,
            frame_begun: None,
            waiting_since: None,
            counters,
        }
    }

    pub(crate) fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = Some(memory);
        self
    }

    /// From the next frame on, refuses all kinds but these by their header, before the body costs
    /// anything.
    pub(crate) fn accept(&mut self, kinds: &'static [FrameKind]) {
        self.accepted = Some(kinds);
    }

    /// The next frame; `None` once the peer has finished. Frames of unknown kinds that may be
    /// skipped are. Cancel-safe. After an error nothing more can be read, and no memory is held.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, ReadFrameError> {
        let read = self.read().await;
        if read.is_err() {
            // Its stream may stay for as long as the peer takes to hear of it.
            self.state = BETWEEN_FRAMES;
        }
        read
    }

    async fn read(&mut self) -> Result<Option<Frame>, ReadFrameError> {
        loop {
            if let Some(frame) = self.advance()? {
                return Ok(Some(frame));
            }
            if self.obtain_memory().await {
                continue;
            }
            let between = matches!(self.state, State::Header { length: 0, .. });
            if !self.fill(between).await? {
                return if between { Ok(None) } else { Err(ReadFrameError::Truncated) };
            }
        }
    }

    /// Waits for memory where that is what is missing; false where it is not. Cancel-safe.
    async fn obtain_memory(&mut self) -> bool {
        let arrived_bytes = self.chunks[self.next_chunk..].iter().map(Bytes::len).sum::<usize>();
        match &mut self.state {
            State::Wanted { kind, body_bytes } => {
                let (kind, body_bytes) = (*kind, *body_bytes as usize);
                self.waiting_since.get_or_insert_with(Instant::now);
                let held = match &self.memory {
                    Some(memory) => memory.claim(kind, body_bytes).await,
                    None => None,
                };
                self.state = State::Body { kind, body_bytes, body: BytesMut::new(), held };
            }
            State::Body { body_bytes, body, held: Some(held), .. }
                if arrived_bytes > 0 && held.granted_bytes() == body.len() =>
            {
                self.waiting_since.get_or_insert_with(Instant::now);
                held.grow(arrived_bytes.min(*body_bytes - body.len())).await;
            }
            _ => return false,
        }
        // What we made the peer wait is not its fault.
        if let (Some(since), Some(begun)) = (self.waiting_since.take(), &mut self.frame_begun) {
            *begun += since.elapsed();
        }
        true
    }

    /// Takes more chunks out of the transport; false once the peer has finished.
    async fn fill(&mut self, between_frames: bool) -> Result<bool, ReadFrameError> {
        let count = if between_frames {
            self.recv.read_chunks(&mut self.chunks).await
        } else {
            self.read_in_time().await?
        };
        let Some(count) = count.map_err(ReadFrameError::Lost)? else { return Ok(false) };
        // They stand at the front; move them to the back, where `next_chunk` counts up to the end.
        self.chunks[..].rotate_left(count);
        self.next_chunk = CHUNKS - count;
        Ok(true)
    }

    /// Waits for the peer until the frame is late. What is here already is never late.
    async fn read_in_time(&mut self) -> Result<Result<Option<usize>, ReadError>, ReadFrameError> {
        let begun = *self.frame_begun.get_or_insert_with(Instant::now);
        let deadline = begun + self.frame_timeout;
        let patient_until = (begun + PATIENCE).min(Instant::now() + PAUSE_MAX);
        loop {
            let now = Instant::now();
            let slow = now >= patient_until
                && matches!(&self.state, State::Body { held: Some(held), .. }
                    if held.keeps_others_waiting());
            let until = if slow { now } else { deadline.min(patient_until.max(now + LOOK_EVERY)) };
            let read = self.recv.read_chunks(&mut self.chunks);
            match tokio::time::timeout_at(until, read).await {
                Ok(read) => return Ok(read),
                Err(_) if now >= deadline => return Err(ReadFrameError::Late(self.frame_timeout)),
                Err(_) if slow => return Err(ReadFrameError::Slow),
                Err(_) => {}
            }
        }
    }

    /// Works through the chunks that are here, up to the end of one frame.
    fn advance(&mut self) -> Result<Option<Frame>, ReadFrameError> {
        loop {
            match &mut self.state {
                State::Wanted { .. } => return Ok(None),
                State::Header { length, .. } if *length == FRAME_HEADER_BYTES => {
                    self.read_header()?;
                    continue;
                }
                State::Body { body_bytes, body, .. } if body.len() == *body_bytes => {
                    return Ok(self.take_frame());
                }
                State::Skip { left: 0 } => {
                    self.state = BETWEEN_FRAMES;
                    self.frame_begun = None;
                    continue;
                }
                _ => {}
            }
            let Some(chunk) = self.chunks.get_mut(self.next_chunk) else { return Ok(None) };
            match &mut self.state {
                State::Header { bytes, length } => {
                    let count = chunk.len().min(FRAME_HEADER_BYTES - *length);
                    bytes[*length..*length + count].copy_from_slice(&chunk[..count]);
                    chunk.advance(count);
                    *length += count;
                }
                State::Body { body_bytes, body, held, .. } => {
                    let granted = held.as_ref().map_or(*body_bytes, Held::granted_bytes);
                    let count = chunk.len().min(granted - body.len());
                    if count == 0 && !chunk.is_empty() {
                        return Ok(None);
                    }
                    grow(body, count, *body_bytes);
                    body.extend_from_slice(&chunk[..count]);
                    chunk.advance(count);
                }
                State::Skip { left } => {
                    let count = chunk.len().min(*left);
                    chunk.advance(count);
                    *left -= count;
                }
                State::Wanted { .. } => return Ok(None),
            }
            if chunk.is_empty() {
                *chunk = Bytes::new();
                self.next_chunk += 1;
            }
        }
    }

    fn read_header(&mut self) -> Result<(), ReadFrameError> {
        let State::Header { bytes, .. } = &self.state else { return Ok(()) };
        let FrameHeader { kind, body_bytes, .. } = FrameHeader::decode(*bytes)?;
        self.state = match kind {
            Some(kind) if self.accepted.is_some_and(|accepted| !accepted.contains(&kind)) => {
                return Err(ReadFrameError::Misplaced(kind));
            }
            Some(kind) => State::Wanted { kind, body_bytes },
            None => State::Skip { left: body_bytes as usize },
        };
        Ok(())
    }

    fn take_frame(&mut self) -> Option<Frame> {
        self.frame_begun = None;
        match std::mem::replace(&mut self.state, BETWEEN_FRAMES) {
            State::Body { kind, body, held, .. } => {
                add(&self.counters.bytes_in, FRAME_HEADER_BYTES + body.len());
                add(&self.counters.bytes_copied, body.len());
                Some(Frame { kind, body, held })
            }
            _ => None,
        }
    }
}

/// Makes room for `count` more bytes of a body. Room beyond what was trusted at first is made in
/// proportion to what has arrived.
fn grow(body: &mut BytesMut, count: usize, body_bytes: usize) {
    if body.capacity() - body.len() < count {
        let left = body_bytes - body.len();
        body.reserve(left.min(count.max(body.len()).max(TRUSTED_BYTES)));
    }
}

/// Sends frames that are ready as they are.
pub(crate) async fn send_bytes(
    send: &mut SendStream,
    counters: &Counters,
    bytes: Bytes,
) -> Result<(), WriteError> {
    let length = bytes.len();
    send.write_chunk(bytes).await?;
    add(&counters.bytes_out, length);
    Ok(())
}

/// Sends one frame: its header, `prefix`, then `body`. Not cancel-safe: a frame half sent ends the
/// stream's use.
///
/// The caller has checked that the body is within its kind's limit.
pub(crate) async fn send_pieces(
    send: &mut SendStream,
    counters: &Counters,
    header: [u8; FRAME_HEADER_BYTES],
    prefix: &[u8],
    body: &[Bytes],
) -> Result<(), WriteError> {
    let mut pieces = Vec::with_capacity(body.len() + 1);
    let copied_bytes = frame_pieces(&mut pieces, header, prefix, body);
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    send.write_all_chunks(&mut pieces).await?;
    add(&counters.bytes_copied, copied_bytes);
    add(&counters.bytes_out, bytes);
    Ok(())
}

/// Adds one frame to what is to be sent: its header, `prefix`, then `body`, which is not copied
/// unless its pieces are so short that copying is cheaper. Returns how much was.
///
/// The caller has checked that the body is within its kind's limit.
pub(crate) fn frame_pieces(
    pieces: &mut Vec<Bytes>,
    header: [u8; FRAME_HEADER_BYTES],
    prefix: &[u8],
    body: &[Bytes],
) -> usize {
    let mut short = BytesMut::with_capacity(FRAME_HEADER_BYTES + prefix.len() + GATHER_BYTES);
    short.extend_from_slice(&header);
    short.extend_from_slice(prefix);
    let mut copied_bytes = 0;
    for piece in body {
        if piece.len() <= GATHER_BYTES {
            short.extend_from_slice(piece);
            copied_bytes += piece.len();
        } else {
            if !short.is_empty() {
                pieces.push(short.split().freeze());
            }
            pieces.push(piece.clone());
        }
    }
    if !short.is_empty() {
        pieces.push(short.freeze());
    }
    copied_bytes
}
