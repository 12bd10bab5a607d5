//! Produce sessions: one bidirectional stream per partition that a client writes to.

use bytes::BytesMut;
use millstream_types::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};

use super::codec::{DecodeError, Decoder, EncodeError, Encoder, Field, FrameBody, encode_with};
use super::common::{
    ERROR_MESSAGE_BYTES_MAX, ProducerIdentity, ServiceError, TraceId, put_error_detail, reported,
};
use super::reply::{Reply, ReplyBody};
use crate::frame::FrameKind;

/// When a batch counts as stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Acks {
    /// Once the leader has it, as durable as the topic asks of one broker.
    Leader,
    /// Once it is committed: every in-sync replica has it, and consumers may see it.
    All,
}

impl Field for Acks {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&match self {
            Self::Leader => 0_u8,
            Self::All => 1,
        });
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        match input.take::<u8>(what)? {
            0 => Ok(Self::Leader),
            1 => Ok(Self::All),
            value => Err(DecodeError::BadValue { what, value: value.into() }),
        }
    }
}

/// Opens a produce session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenProduce {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionIndex,
    /// The leadership that the client believes in; a broker with another refuses.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The producer whose batches these will be; `None` when it is not idempotent.
    pub producer: Option<ProducerIdentity>,
    /// When a batch is acknowledged.
    pub acks: Acks,
    /// Ties the session to what the client logged.
    pub trace: TraceId,
}

impl FrameBody for OpenProduce {
    const KIND: FrameKind = FrameKind::OpenProduce;

    fn write_body(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_with(out, |out| {
            out.put(&self.topic);
            out.put(&self.partition);
            out.put(&self.leader_epoch);
            out.put(&self.producer);
            out.put(&self.acks);
            out.put(&self.trace);
        })
    }

    fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(body);
        Ok(Self {
            topic: input.take("topic id")?,
            partition: input.take("partition")?,
            leader_epoch: input.take("leader epoch")?,
            producer: input.take("producer")?,
            acks: input.take("acks")?,
            trace: input.take("trace id")?,
        })
    }
}

/// The session is open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProduceOpened {
    /// The leadership under which batches are appended.
    pub leader_epoch: LeaderEpoch,
    /// The largest batch that this topic takes, in bytes.
    pub batch_bytes_max: u32,
    /// Batches that may be in flight; the broker stops reading beyond it.
    pub in_flight_max: u32,
}

impl ReplyBody for ProduceOpened {
    const KIND: FrameKind = FrameKind::ProduceOpened;

    fn put_fields(&self, out: &mut Encoder<'_>) {
        out.put(&self.leader_epoch);
        out.put(&self.batch_bytes_max);
        out.put(&self.in_flight_max);
    }

    fn take_fields(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            leader_epoch: input.take("leader epoch")?,
            batch_bytes_max: input.take("batch limit")?,
            in_flight_max: input.take("in-flight limit")?,
        })
    }
}

/// A batch was stored as its session's `acks` ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProduceAck {
    /// The offset of the batch's first record; the earlier one when the batch was a duplicate.
    pub base_offset: Offset,
    /// When the broker appended it, or [`TimestampMs::NONE`] where it does not say.
    pub append_time: TimestampMs,
    /// Milliseconds that the client is asked to wait before its next batch.
    pub throttle_ms: u32,
}

/// Smaller than other replies, because there is one for each batch: message and leader hint stand
/// there only on an error, base offset and append time only on success.
impl FrameBody for Reply<ProduceAck> {
    const KIND: FrameKind = FrameKind::ProduceAck;

    fn write_body(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_with(out, |out| match &self.0 {
            Ok(ack) => {
                out.put(&ErrorCode::None);
                out.put(&ack.throttle_ms);
                out.put(&ack.base_offset);
                out.put(&ack.append_time);
            }
            Err(error) => {
                out.put(&reported(error.code));
                out.put(&error.throttle_ms);
                put_error_detail(out, error);
            }
        })
    }

    fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(body);
        let code: ErrorCode = input.take("error code")?;
        let throttle_ms = input.take("throttle")?;
        if code == ErrorCode::None {
            let base_offset = input.take("base offset")?;
            let append_time = input.take("append time")?;
            return Ok(Self(Ok(ProduceAck { base_offset, append_time, throttle_ms })));
        }
        let message = input.string("error message", ERROR_MESSAGE_BYTES_MAX)?;
        let leader = input.take("leader hint")?;
        Ok(Self(Err(ServiceError { code, message, leader, throttle_ms })))
    }
}
