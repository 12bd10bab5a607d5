//! Why something failed, and whether trying again may help. One closed enum an operation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_types::ErrorCode;

/// Why one address could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressFailure {
    /// The address, as it was given.
    pub address: String,
    /// Why it failed.
    pub reason: String,
}

/// A list of failures, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressFailures(pub Vec<AddressFailure>);

impl fmt::Display for AddressFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.0 {
            write!(f, "\n  {}: {}", failure.address, failure.reason)?;
        }
        Ok(())
    }
}

/// Why [`connect`](crate::ClientBuilder::connect) failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No bootstrap address was given.
    #[error("no bootstrap address: give at least one as host:port, such as localhost:9092")]
    NoBootstrap,
    /// Neither `ca_pem` nor `ca_file` was given.
    #[error(
        "no certificate authority: give the cluster's CA with ca_pem or ca_file (a broker writes \
         it as ca.pem in its data directory)"
    )]
    NoAuthority,
    /// A certificate or key file cannot be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        reason: String,
    },
    /// A certificate or key is malformed.
    #[error("TLS: {reason}; check that the PEM holds what its option names")]
    Tls {
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is out of its range.
    #[error("setting {setting}: {reason}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// The range.
        reason: String,
    },
    /// No address answered.
    #[error(
        "no broker could be reached:{failures}\ncheck that a broker runs there, that UDP passes, \
         and that the CA is that cluster's"
    )]
    Unreachable {
        /// Every address that was tried, and why it failed.
        failures: AddressFailures,
    },
}

impl ConnectError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Why an administrative call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The broker refused or failed.
    #[error("{code}: {message}")]
    Service {
        /// What went wrong.
        code: ErrorCode,
        /// The broker's words.
        message: String,
    },
    /// No broker answered in time; a change may have happened. Administrative calls are
    /// idempotent: make the call again.
    #[error("no answer within the request timeout; the change may have happened, call again")]
    TimedOut,
    /// No broker could be reached.
    #[error("no broker could be reached:{failures}")]
    Unreachable {
        /// Every address that was tried, and why it failed.
        failures: AddressFailures,
    },
    /// The broker answered with something this client does not understand.
    #[error("unexpected answer: {reason}; client and broker may differ in version")]
    Protocol {
        /// What was unexpected.
        reason: String,
    },
}

impl AdminError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Service { code, .. } => code.is_retriable(),
            Self::TimedOut | Self::Unreachable { .. } => true,
            Self::Protocol { .. } => false,
        }
    }

    /// The broker's error code, where a broker answered.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Service { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Why a producer or consumer could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A setting is out of its range.
    #[error("setting {setting}: {reason}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// The range.
        reason: String,
    },
    /// The call to a broker that building needs failed.
    #[error(transparent)]
    Broker(#[from] AdminError),
}

impl BuildError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Setting { .. } => false,
            Self::Broker(error) => error.is_retriable(),
        }
    }
}

/// Why a record was not queued. It is not written and will not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The record alone is larger than a batch may be.
    #[error("the record takes {bytes} bytes, at most {max} can be sent; split it")]
    RecordTooLarge {
        /// The record's size in a batch, in bytes.
        bytes: usize,
        /// The most that a batch or the producer's buffer may hold, in bytes.
        max: usize,
    },
    /// The record has more headers than a record may have.
    #[error("the record has {count} headers, the most is {max}")]
    TooManyHeaders {
        /// How many it has.
        count: usize,
        /// How many a record may have.
        max: usize,
    },
    /// The timestamp cannot be kept in microseconds, or is negative.
    #[error("timestamp {timestamp} is out of range: milliseconds since 1970, 0 to {max}")]
    InvalidTimestamp {
        /// The record's timestamp.
        timestamp: i64,
        /// The largest.
        max: i64,
    },
    /// The topic has no such partition.
    #[error("topic {topic} has {partitions} partitions, there is no partition {partition}")]
    UnknownPartition {
        /// The topic.
        topic: Arc<str>,
        /// The partition asked for.
        partition: u32,
        /// How many the topic has.
        partitions: u32,
    },
    /// The topic's partitions could not be learnt.
    #[error("{}", of_topic(topic, error))]
    Topic {
        /// The topic.
        topic: Arc<str>,
        /// Why.
        error: AdminError,
    },
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
}

/// The error with its topic, which most name themselves.
fn of_topic(topic: &str, error: &AdminError) -> String {
    let text = error.to_string();
    if text.contains(topic) { text } else { format!("topic {topic}: {text}") }
}

impl SendError {
    /// Whether the same record may be queued later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Topic { error, .. } => error.is_retriable(),
            _ => false,
        }
    }
}

/// Why [`try_send`](crate::Producer::try_send) did not queue a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError {
    /// The buffer is full: use [`send`](crate::Producer::send), which waits, or try later.
    #[error("the producer's buffer is full")]
    Full,
    /// The topic's partitions are not known yet: use [`send`](crate::Producer::send) for the
    /// first record of a topic, which asks a broker.
    #[error("topic {topic} is not resolved yet; send its first record with send()")]
    Unresolved {
        /// The topic.
        topic: Arc<str>,
    },
    /// The record was refused.
    #[error(transparent)]
    Refused(#[from] SendError),
}

impl TrySendError {
    /// Whether the same record may be queued later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Full | Self::Unresolved { .. } => true,
            Self::Refused(error) => error.is_retriable(),
        }
    }
}

/// Why a queued record was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The broker refused the record's batch. It is not written.
    #[error("not written: {code}: {message}")]
    Rejected {
        /// What is wrong with it.
        code: ErrorCode,
        /// The broker's words.
        message: Arc<str>,
    },
    /// The delivery timeout passed before the record was sent. It is not written.
    #[error("not written: the delivery timeout passed before it could be sent ({last_error})")]
    Expired {
        /// What stood in the way last.
        last_error: Arc<str>,
    },
    /// The record was sent but its fate is unknown, and resending could write it twice.
    #[error(
        "may or may not be written: {reason}; look it up in the topic before producing it again"
    )]
    Unknown {
        /// Why its fate cannot be learnt.
        reason: Arc<str>,
    },
    /// The partition lacks records that this producer sent earlier, acknowledged ones perhaps.
    #[error(
        "not written: partition {partition} lacks records sent before this one ({message}); \
         the broker may have lost data: compare the topic's end with your acknowledgements, then \
         produce again"
    )]
    OutOfOrderSequence {
        /// The partition.
        partition: u32,
        /// The broker's words.
        message: Arc<str>,
    },
    /// A newer incarnation of this producer id is active; this producer can write no more.
    #[error("not written: a newer producer with this id is active; make a new producer")]
    Fenced,
    /// The record could not be encoded.
    #[error("not written: the batch cannot be encoded: {reason}")]
    Encoding {
        /// What the encoder said.
        reason: Arc<str>,
    },
    /// The producer's task ended, with its runtime, before the record was acknowledged.
    #[error("may or may not be written: the producer ended before the acknowledgement came")]
    Abandoned,
}

impl DeliveryError {
    /// Whether producing the record again is safe (it is not written) and may succeed.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Rejected { code, .. } => code.is_retriable(),
            Self::Expired { .. } => true,
            Self::OutOfOrderSequence { .. }
            | Self::Unknown { .. }
            | Self::Fenced
            | Self::Encoding { .. }
            | Self::Abandoned => false,
        }
    }

    /// Whether the record may have been written in spite of the error.
    #[must_use]
    pub const fn may_be_written(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Abandoned)
    }
}

/// Records that failed since the last [`flush`](crate::Producer::flush).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{failed} {} not delivered; the first: {first}",
    if *failed == 1 { "record was" } else { "records were" }
)]
pub struct FlushError {
    /// How many.
    pub failed: u64,
    /// Why the first of them failed.
    #[source]
    pub first: DeliveryError,
}

impl FlushError {
    /// Whether producing the first failed record again is safe and may succeed.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        self.first.is_retriable()
    }
}

/// Why a consumer could not go on with a partition. Connection loss and retriable errors are
/// not among them, unless [`unreachable_after`](crate::ConsumerBuilder::unreachable_after) asks:
/// the consumer reconnects and resumes by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsumerError {
    /// The position lies outside what the partition holds.
    #[error(
        "partition {partition}: offset {offset} is outside [{earliest}, {latest}]; start at one \
         of them, or set out_of_range(OutOfRange::Earliest) or Latest"
    )]
    OffsetOutOfRange {
        /// The partition.
        partition: u32,
        /// The offset asked for.
        offset: i64,
        /// The first offset held.
        earliest: i64,
        /// The offset after the last record.
        latest: i64,
    },
    /// Records are missing. The consumer goes on after the gap.
    #[error("partition {partition}: expected offset {expected}, the broker sent {found}")]
    OffsetGap {
        /// The partition.
        partition: u32,
        /// The offset that should have come.
        expected: i64,
        /// The offset that came.
        found: i64,
    },
    /// A batch fails its checksum or cannot be read, and came so again after a reconnect. The
    /// partition is not read further.
    #[error(
        "partition {partition}: the batch at offset {offset} is damaged: {reason}; see the \
         broker's log, or start after it"
    )]
    CorruptBatch {
        /// The partition.
        partition: u32,
        /// The offset from which it was read.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing was heard of the partition's leader for so long as
    /// [`unreachable_after`](crate::ConsumerBuilder::unreachable_after) says, or longer. The
    /// consumer goes on trying; the next such error comes only after the partition was read again.
    #[error(
        "partition {partition}: nothing was heard of its leader for {}s: {reason}",
        silence.as_secs()
    )]
    Unreachable {
        /// The partition.
        partition: u32,
        /// Since when the partition's leader was last heard.
        silence: Duration,
        /// What stands in the way.
        reason: String,
    },
    /// The broker refused. The partition is not read further.
    #[error("partition {partition}: {code}: {message}")]
    Service {
        /// The partition.
        partition: u32,
        /// What went wrong.
        code: ErrorCode,
        /// The broker's words.
        message: String,
    },
    /// A call to a broker failed.
    #[error(transparent)]
    Broker(#[from] AdminError),
}

impl ConsumerError {
    /// Whether the same subscription may succeed later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Service { code, .. } => code.is_retriable(),
            Self::Broker(error) => error.is_retriable(),
            Self::Unreachable { .. } => true,
            Self::OffsetOutOfRange { .. } | Self::OffsetGap { .. } | Self::CorruptBatch { .. } => {
                false
            }
        }
    }
}
