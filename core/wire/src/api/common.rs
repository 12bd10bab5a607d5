//! Values that several bodies share, and the error that every reply may carry.

use std::fmt;

use millstream_types::limits::NAME_BYTES_MAX;
use millstream_types::{BrokerId, ErrorCode, LeaderEpoch, ProducerEpoch, ProducerId};
use thiserror::Error;

use super::codec::{DecodeError, Decoder, Encoder, Field};

/// The longest message of an error, in bytes; a longer one is cut at a character.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 4096;
/// The longest `host:port`, in bytes.
pub const ENDPOINT_BYTES_MAX: usize = NAME_BYTES_MAX + 6;

/// Ties a request to what its client logged; all zero when the client traces nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TraceId(pub [u8; 16]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

impl Field for TraceId {
    const BYTES_MIN: usize = 16;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.0);
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self(input.take(what)?))
    }
}

/// Names one change of metadata, chosen by the client at random: a retry with the same id is
/// answered as the first attempt was and changes nothing again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommandId(pub [u8; 16]);

impl Field for CommandId {
    const BYTES_MIN: usize = 16;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.0);
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self(input.take(what)?))
    }
}

/// An idempotent producer's id with the epoch that fences its earlier incarnations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProducerIdentity {
    /// The id; never negative on the wire.
    pub id: ProducerId,
    /// The epoch; never negative on the wire.
    pub epoch: ProducerEpoch,
}

impl Field for ProducerIdentity {
    const BYTES_MIN: usize = 10;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.id);
        out.put(&self.epoch);
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        let identity = Self { id: input.take(what)?, epoch: input.take(what)? };
        if identity.id.0 < 0 {
            return Err(DecodeError::BadValue { what, value: identity.id.0 });
        }
        if identity.epoch.0 < 0 {
            return Err(DecodeError::BadValue { what, value: identity.epoch.0.into() });
        }
        Ok(identity)
    }
}

/// Who leads a partition, as far as the broker that answers knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderHint {
    /// The leader.
    pub broker: BrokerId,
    /// Its leadership.
    pub epoch: LeaderEpoch,
    /// Where clients reach it, as `host:port`.
    pub endpoint: String,
}

impl Field for LeaderHint {
    const BYTES_MIN: usize = 10;

    fn put(&self, out: &mut Encoder<'_>) {
        out.put(&self.broker);
        out.put(&self.epoch);
        out.string("leader endpoint", &self.endpoint, ENDPOINT_BYTES_MAX);
    }

    fn take(input: &mut Decoder<'_>, what: &'static str) -> Result<Self, DecodeError> {
        Ok(Self {
            broker: input.take(what)?,
            epoch: input.take(what)?,
            endpoint: input.string("leader endpoint", ENDPOINT_BYTES_MAX)?,
        })
    }
}

/// Why the broker did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{code}: {message}")]
pub struct ServiceError {
    /// The cause, as programs see it; never [`ErrorCode::None`].
    pub code: ErrorCode,
    /// The cause, as people see it.
    pub message: String,
    /// Who leads the partition, when that may help.
    pub leader: Option<LeaderHint>,
    /// Milliseconds that the client is asked to wait before its next request.
    pub throttle_ms: u32,
}

impl ServiceError {
    /// An error without leader hint or throttle.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), leader: None, throttle_ms: 0 }
    }

    /// The same error, naming who leads the partition.
    #[must_use]
    pub fn with_leader(mut self, leader: LeaderHint) -> Self {
        self.leader = Some(leader);
        self
    }

    /// Whether the same request may succeed later, perhaps at another broker.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        self.code.is_retriable()
    }
}

impl From<DecodeError> for ServiceError {
    fn from(error: DecodeError) -> Self {
        Self::new(ErrorCode::InvalidRequest, error.to_string())
    }
}

/// The longest prefix of `text` that fits `limit` bytes.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Writes an error's message and leader hint: what every failed reply ends with.
pub(crate) fn put_error_detail(out: &mut Encoder<'_>, error: &ServiceError) {
    let message = cut(&error.message, ERROR_MESSAGE_BYTES_MAX);
    out.string("error message", message, ERROR_MESSAGE_BYTES_MAX);
    out.put(&error.leader);
}

/// Writes the status that every reply starts with; `None` is success.
pub(crate) fn put_status(out: &mut Encoder<'_>, error: Option<&ServiceError>) {
    let Some(error) = error else {
        out.put(&ErrorCode::None);
        out.put(&0_u32);
        out.string("error message", "", 0);
        out.put(&None::<LeaderHint>);
        return;
    };
    out.put(&reported(error.code));
    out.put(&error.throttle_ms);
    put_error_detail(out, error);
}

/// A failure must not read as success, whatever code its author gave it.
pub(crate) fn reported(code: ErrorCode) -> ErrorCode {
    if code == ErrorCode::None { ErrorCode::Internal } else { code }
}

/// Reads the status that every reply starts with; `None` is success.
pub(crate) fn take_status(input: &mut Decoder<'_>) -> Result<Option<ServiceError>, DecodeError> {
    let code: ErrorCode = input.take("error code")?;
    let throttle_ms = input.take("throttle")?;
    let message = input.string("error message", ERROR_MESSAGE_BYTES_MAX)?;
    let leader = input.take("leader hint")?;
    if code == ErrorCode::None {
        return Ok(None);
    }
    Ok(Some(ServiceError { code, message, leader, throttle_ms }))
}
