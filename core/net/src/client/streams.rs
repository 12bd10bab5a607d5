//! Open streams: batches out with acknowledgements back, and batches in.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use millstream_service::ServiceError;
use millstream_types::Offset;
use millstream_wire::api::{End, FrameBody, ProduceAck, Progress, Reply, read_batches_prefix};
use millstream_wire::frame::{BATCHES_PREFIX_BYTES, FrameHeader, FrameKind};
use quinn::SendStream;

use super::error::{CallError, StreamError};
use crate::close_code;
use crate::counters::Counters;
use crate::frames::{Frame, FrameReader, send_pieces};

/// The sending half of a produce stream. Dropping it without [`ProduceSender::finish`] abandons
/// what is not yet sent.
#[derive(Debug)]
pub struct ProduceSender {
    send: SendStream,
    counters: Arc<Counters>,
    finished: bool,
}

impl ProduceSender {
    pub(crate) fn new(send: SendStream, counters: Arc<Counters>) -> Self {
        Self { send, counters, finished: false }
    }

    /// Sends one record batch, waiting while the broker holds the stream back. The bytes are
    /// shared with the transport, not copied, unless they are few.
    ///
    /// Not cancel-safe: a stream on which this was dropped half-way can only be given up.
    ///
    /// # Errors
    /// [`StreamError`]; on [`StreamError::Stopped`], [`AckReceiver::next`] says why.
    pub async fn send(&mut self, batch: Bytes) -> Result<(), StreamError> {
        let header = FrameHeader::encode(FrameKind::Produce, batch.len())
            .map_err(|error| StreamError::Protocol(error.to_string()))?;
        send_pieces(&mut self.send, &self.counters, header, &[], &[batch]).await?;
        Ok(())
    }

    /// No more batches follow. The broker acknowledges what it has and ends the stream.
    pub fn finish(&mut self) {
        self.finished = true;
        // Fails only where the broker has ended the stream already.
        drop(self.send.finish());
    }
}

impl Drop for ProduceSender {
    /// Without this, dropping would read as the end of a well-formed session, even in the middle
    /// of a batch.
    fn drop(&mut self) {
        if !self.finished {
            drop(self.send.reset(close_code::DONE.into()));
        }
    }
}

/// The receiving half of a produce stream.
#[derive(Debug)]
pub struct AckReceiver {
    reader: FrameReader,
}

impl AckReceiver {
    pub(crate) fn new(reader: FrameReader) -> Self {
        Self { reader }
    }

    /// The answer to the oldest batch that has none yet; `None` when the stream has ended and all
    /// are answered. Cancel-safe.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is over, and batches without an answer may be stored or not.
    pub async fn next(&mut self) -> Result<Option<Result<ProduceAck, ServiceError>>, StreamError> {
        let Some(frame) = self.reader.next().await? else { return Ok(None) };
        match frame.kind {
            FrameKind::ProduceAck => {
                let Reply(ack) = Reply::from_body(&frame.body)
                    .map_err(|error| StreamError::Protocol(error.to_string()))?;
                Ok(Some(ack))
            }
            FrameKind::End => Err(ended(&frame)),
            kind => Err(unexpected(kind)),
        }
    }
}

/// What a subscription delivers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// Whole batches back to back, in offset order.
    Batches {
        /// The batches.
        bytes: Bytes,
        /// One past the last committed record, when they were read.
        high_watermark: Offset,
    },
    /// Everything committed was delivered: where the partition stands.
    Progress(Progress),
}

/// A subscription. Dropping it tells the broker to stop.
#[derive(Debug)]
pub struct BatchReceiver {
    reader: FrameReader,
}

impl BatchReceiver {
    pub(crate) fn new(reader: FrameReader) -> Self {
        Self { reader }
    }

    /// The next batches or progress. While nobody calls this, the broker sends no more than the
    /// stream's window. `None` when the broker has ended the stream without giving a reason.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`CallError`]: the subscription is over.
    pub async fn next(&mut self) -> Result<Option<Received>, CallError> {
        let Some(frame) = self.reader.next().await.map_err(StreamError::from)? else {
            return Ok(None);
        };
        let malformed =
            |error: millstream_wire::api::DecodeError| CallError::Protocol(error.to_string());
        match frame.kind {
            FrameKind::Batches => {
                let high_watermark = read_batches_prefix(&frame.body).map_err(malformed)?;
                let mut bytes = frame.body.freeze();
                bytes.advance(BATCHES_PREFIX_BYTES);
                Ok(Some(Received::Batches { bytes, high_watermark }))
            }
            FrameKind::Progress => {
                let progress = Progress::from_body(&frame.body).map_err(malformed)?;
                Ok(Some(Received::Progress(progress)))
            }
            FrameKind::End => Err(ended(&frame).into()),
            kind => Err(unexpected(kind).into()),
        }
    }
}

fn ended(frame: &Frame) -> StreamError {
    match End::from_body(&frame.body) {
        Ok(End(error)) => StreamError::Ended(error),
        Err(error) => StreamError::Protocol(error.to_string()),
    }
}

fn unexpected(kind: FrameKind) -> StreamError {
    StreamError::Protocol(format!("a {kind:?} frame was not expected"))
}
