//! Subscriptions: one bidirectional stream per partition that a client reads; the broker pushes.

use bytes::BytesMut;
use millstream_types::{LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};

use super::codec::{DecodeError, Decoder, EncodeError, Encoder, Field, FrameBody, encode_with};
use super::common::{ServiceError, TraceId, put_status, take_status};
use super::reply::ReplyBody;
use crate::frame::{BATCHES_PREFIX_BYTES, FrameKind};

/// Where a subscription starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartAt {
    /// The first record that the partition still has.
    Earliest,
    /// The first record that is committed after the subscription opens.
    Latest,
    /// This offset.
    Offset(Offset),
    /// The first record whose timestamp is at or after this; the tail when there is none.
    Timestamp(TimestampMs),
}

impl Field for StartAt {
    const BYTES_MIN: usize = 1;

    fn put(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Earliest => out.put(&0_u8),
            Self::Latest => out.put(&1_u8),
            Self::Offset(offset) => {
                out.put(&2_u8);
                out.put(offset);
            }
            Self::Timestamp(timestamp) => {
                out.put(&3_u8);
                out.put(timestamp);
            }
        }
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        match input.take::<u8>(what)? {
            0 => Ok(Self::Earliest),
            1 => Ok(Self::Latest),
            2 => Ok(Self::Offset(input.take("start offset")?)),
            3 => Ok(Self::Timestamp(input.take("start timestamp")?)),
            value => Err(DecodeError::BadValue { what, value: value.into() }),
        }
    }
}

/// Opens a subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenSubscription {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionIndex,
    /// Where to start.
    pub start: StartAt,
    /// Bytes of batches that one frame should gather at most; a larger batch goes alone. 0 leaves
    /// it to the broker.
    pub frame_bytes_max: u32,
    /// Ties the subscription to what the client logged.
    pub trace: TraceId,
}

impl FrameBody for OpenSubscription {
    const KIND: FrameKind = FrameKind::OpenSubscription;

    fn write_body(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_with(out, |out| {
            out.put(&self.topic);
            out.put(&self.partition);
            out.put(&self.start);
            out.put(&self.frame_bytes_max);
            out.put(&self.trace);
        })
    }

    fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(body);
        Ok(Self {
            topic: input.take("topic id")?,
            partition: input.take("partition")?,
            start: input.take("start")?,
            frame_bytes_max: input.take("frame bytes")?,
            trace: input.take("trace id")?,
        })
    }
}

/// The subscription is open; batches follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionOpened {
    /// The first record that the client asked for. The first batch pushed contains it, and may
    /// start before it: batches go whole.
    pub start: Offset,
    /// The first offset that the partition still has.
    pub log_start: Offset,
    /// One past the last committed record.
    pub high_watermark: Offset,
    /// The leadership that serves the subscription.
    pub leader_epoch: LeaderEpoch,
}

impl ReplyBody for SubscriptionOpened {
    const KIND: FrameKind = FrameKind::SubscriptionOpened;

    fn put_fields(&self, out: &mut Encoder<'_>) {
        out.put(&self.start);
        out.put(&self.log_start);
        out.put(&self.high_watermark);
        out.put(&self.leader_epoch);
    }

    fn take_fields(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            start: input.take("start offset")?,
            log_start: input.take("log start")?,
            high_watermark: input.take("high watermark")?,
            leader_epoch: input.take("leader epoch")?,
        })
    }
}

/// Where the partition stands while there is nothing to push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// One past the last committed record; everything before it was pushed.
    pub high_watermark: Offset,
    /// The first offset that the partition still has.
    pub log_start: Offset,
}

impl FrameBody for Progress {
    const KIND: FrameKind = FrameKind::Progress;

    fn write_body(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_with(out, |out| {
            out.put(&self.high_watermark);
            out.put(&self.log_start);
        })
    }

    fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(body);
        Ok(Self {
            high_watermark: input.take("high watermark")?,
            log_start: input.take("log start")?,
        })
    }
}

/// Why a stream ends: the last frame of a subscription or a produce session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End(pub ServiceError);

impl FrameBody for End {
    const KIND: FrameKind = FrameKind::End;

    fn write_body(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_with(out, |out| put_status(out, Some(&self.0)))
    }

    fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        let error = take_status(&mut Decoder::new(body))?;
        error.map(Self).ok_or(DecodeError::BadValue { what: "error code", value: 0 })
    }
}

/// The bytes of a Batches frame's body before its first batch.
#[must_use]
pub fn batches_prefix(high_watermark: Offset) -> [u8; BATCHES_PREFIX_BYTES] {
    high_watermark.value().to_be_bytes()
}

/// The high watermark of a Batches frame's body; the batches start [`BATCHES_PREFIX_BYTES`] in.
///
/// # Errors
/// [`DecodeError`] when the body is shorter than that or the offset negative.
pub fn read_batches_prefix(body: &[u8]) -> Result<Offset, DecodeError> {
    Decoder::new(body).take("high watermark")
}
