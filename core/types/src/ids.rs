//! Identities. Numbers that could be confused are different types; conversions are named.

use std::fmt;
use std::str::FromStr;

/// Why a text is no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an identity is 32 hexadecimal digits")
    }
}

impl std::error::Error for ParseIdError {}

/// Declares a 128-bit identity that prints as 32 lower-case hexadecimal digits.
macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The all-zero value, which names nothing.
            pub const NIL: Self = Self([0; 16]);

            /// From its 16 bytes, as they stand in files and frames.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its 16 bytes, as they stand in files and frames.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(ParseIdError);
                }
                let value = u128::from_str_radix(text, 16).or(Err(ParseIdError))?;
                Ok(Self(value.to_be_bytes()))
            }
        }
    };
}

id128!(
    /// One cluster, for as long as its metadata lives. Written into every data directory.
    ClusterId
);
id128!(
    /// One data directory of one broker. A new disk is a new directory id.
    DirectoryId
);
id128!(
    /// One topic's life: a topic deleted and created again under its name has a new id.
    TopicId
);

/// Declares a number that must not be mistaken for another number.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A broker of the cluster. Never reused: the metadata quorum cannot detect a reused id.
    BrokerId(u32)
);
number!(
    /// A partition's place within its topic, from 0.
    PartitionIndex(u32)
);
number!(
    /// Counts a partition's leaderships. Written into every batch, at byte 12 of its header.
    LeaderEpoch(i32)
);
number!(
    /// A producer's identity for idempotence; [`ProducerId::NONE`] where it has none.
    ProducerId(i64)
);
number!(
    /// Fences earlier incarnations of one producer id.
    ProducerEpoch(i16)
);

impl ClusterId {
    /// What tells this cluster's producer ids from another's: 24 bits of its identity, and never 0.
    #[must_use]
    pub const fn producer_origin(self) -> u32 {
        let [first, second, third, ..] = self.0;
        let origin = u32::from_be_bytes([0, first, second, third]);
        if origin == 0 { 1 } else { origin }
    }
}

impl ProducerId {
    /// The producer id of a batch whose producer is not idempotent.
    pub const NONE: Self = Self(-1);
    /// How many low bits are a number that counts the producers of one cluster; above them is the
    /// cluster's [`ClusterId::producer_origin`], or 0 where an earlier build gave the id out.
    const NUMBER_BITS: u32 = 39;

    /// The id of a cluster's producer; `None` for an origin or a number that does not fit.
    #[must_use]
    pub const fn from_parts(origin: u32, number: i64) -> Option<Self> {
        if origin >> 24 != 0 || number < 0 || number >> Self::NUMBER_BITS != 0 {
            return None;
        }
        let [_, first, second, third] = origin.to_be_bytes();
        let above = i64::from_be_bytes([first, second, third, 0, 0, 0, 0, 0]).cast_unsigned() >> 1;
        Some(Self(above.cast_signed() | number))
    }

    /// Which cluster gave the id out; 0 where that is not known. Of an id that
    /// [`ProducerId::is_some`].
    #[must_use]
    pub const fn origin(self) -> u32 {
        // Without the sign the number's bits fill the last five bytes.
        let [first, second, third, ..] = (self.0 << 1).to_be_bytes();
        u32::from_be_bytes([0, first, second, third])
    }

    /// Which of that cluster's producers it is.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0 & ((1 << Self::NUMBER_BITS) - 1)
    }

    /// Whether a producer id was assigned.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 >= 0
    }
}

/// One partition of one topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_what_it_prints() {
        let id = TopicId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_producer_id_is_its_clusters_origin_and_a_number() {
        let cluster = ClusterId::from_bytes([0xff; 16]);
        let last = (1 << 39) - 1;
        for origin in [0, 1, cluster.producer_origin()] {
            for number in [0, 1, 1_000, last] {
                let id = ProducerId::from_parts(origin, number).unwrap();
                assert!(id.is_some());
                assert_eq!((id.origin(), id.number()), (origin, number));
            }
        }
        assert_eq!(ProducerId::from_parts(0, 7), Some(ProducerId(7)));
        let largest = ProducerId::from_parts(cluster.producer_origin(), last);
        assert_eq!(largest, Some(ProducerId(i64::MAX)));
        for (origin, number) in [(1 << 24, 0), (1, last + 1), (1, -1)] {
            assert_eq!(ProducerId::from_parts(origin, number), None, "{origin} {number}");
        }
        assert_eq!(ClusterId::NIL.producer_origin(), 1, "0 is of no cluster");
    }

    #[test]
    fn a_malformed_identity_is_refused() {
        for text in ["", "+0000000000000000000000000000000", "0123", &"g".repeat(32)] {
            assert_eq!(text.parse::<TopicId>(), Err(ParseIdError), "{text:?}");
        }
    }
}
