//! The closed set of error codes that cross the wire.

use std::fmt;

/// Declares the codes once: number, name on the wire and in JSON, whether a retry may help, and
/// what it means.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $retry:literal;)*) => {
        /// What went wrong, as a number that both ends know. See `docs/protocol.md`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[$doc])* $name = $code,)* }

        impl ErrorCode {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u16 { self as u16 }

            /// From the number on the wire; `None` for one that this build does not know.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// The code's name in logs and JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether the same request may succeed later, perhaps at another broker.
            #[must_use]
            pub const fn is_retriable(self) -> bool {
                match self { $(Self::$name => $retry,)* }
            }
        }
    };
}

codes! {
    /// Success.
    None = 0, "none", false;
    /// The broker failed in a way it has no code for; its log says how.
    Internal = 1, "internal", true;
    /// A frame, field or argument is malformed.
    InvalidRequest = 2, "invalid-request", false;
    /// No version of the protocol is shared.
    UnsupportedVersion = 3, "unsupported-version", false;
    /// A hard bound would be passed: batch, frame, streams or connections.
    LimitExceeded = 4, "limit-exceeded", false;
    /// The deadline passed; what was asked may have happened.
    TimedOut = 5, "timed-out", true;
    /// The broker is shutting down or starting.
    Unavailable = 6, "unavailable", true;
    /// The principal may not do this.
    Unauthorized = 7, "unauthorized", false;
    /// No such topic.
    UnknownTopic = 8, "unknown-topic", false;
    /// The topic has no such partition.
    UnknownPartition = 9, "unknown-partition", false;
    /// A topic of that name exists with other settings.
    TopicExists = 10, "topic-exists", false;
    /// A topic name is empty, too long or has a character outside `[a-zA-Z0-9._-]`.
    InvalidTopicName = 11, "invalid-topic-name", false;
    /// A topic config is unknown or its value out of range.
    InvalidConfig = 12, "invalid-config", false;
    /// This broker does not lead the partition; the error names who does.
    NotLeader = 13, "not-leader", true;
    /// The request's leader epoch is older than the broker's.
    FencedLeaderEpoch = 14, "fenced-leader-epoch", true;
    /// The offset lies outside what the partition holds.
    OffsetOutOfRange = 15, "offset-out-of-range", false;
    /// A batch fails validation: magic, length, CRC, record count or a record.
    CorruptBatch = 16, "corrupt-batch", false;
    /// A batch is larger than the topic takes.
    BatchTooLarge = 17, "batch-too-large", false;
    /// A timestamp is too far off, cannot be kept in microseconds, or is said to be the broker's.
    InvalidTimestamp = 18, "invalid-timestamp", false;
    /// An idempotent producer's sequence skipped records.
    OutOfOrderSequence = 19, "out-of-order-sequence", false;
    /// A newer incarnation of this producer id is active.
    FencedProducer = 20, "fenced-producer", false;
    /// The partition does not know this producer and the sequence does not start at 0.
    UnknownProducer = 21, "unknown-producer", false;
    /// Fewer replicas are in sync than `min.insync.replicas`.
    NotEnoughReplicas = 22, "not-enough-replicas", true;
    /// The partition's stored data is damaged; the broker's log names the file.
    StorageFenced = 23, "storage-fenced", false;
    /// The disk has no room.
    NoSpace = 24, "no-space", true;
    /// A batch's codec, or one of its attributes, is not supported here.
    UnsupportedBatch = 25, "unsupported-batch", false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), Some(*code));
        }
        assert_eq!(ErrorCode::from_code(u16::MAX), None);
    }
}
