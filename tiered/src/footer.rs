//! What an object says of itself, in the key-value metadata of its Parquet footer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use millstream_types::{ClusterId, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};
use millstream_wire::Batch;
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};

use crate::error::FormatError;
use crate::values::{ValueColumn, ValueColumns};

/// The newest version that this build reads.
pub const FORMAT_VERSION: u32 = 2;
/// The version of objects all of whose batches are made again of their rows, as all were before
/// version 2: older builds read them.
pub(crate) const PLAIN_VERSION: u32 = 1;

/// The key whose value is [`Facts`] as JSON.
pub(crate) const FACTS_KEY: &str = "millstream.archive";

/// Of which partition a range is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    #[serde(with = "text")]
    pub cluster: ClusterId,
    /// The topic's name when the range was archived.
    pub topic: String,
    /// The topic's identity, which a topic of the same name made later does not share.
    #[serde(with = "text")]
    pub topic_id: TopicId,
    /// The partition's index.
    #[serde(with = "number")]
    pub partition: PartitionIndex,
}

/// What a partition knew at a range's end, so that the archive alone can bring it back.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RangeEnd {
    /// The leader epochs up to the range's end and the offsets at which they began, oldest first.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// The state of the partition's producers at the range's end, as a segment's footer has it.
    pub producers: Bytes,
    /// The typed columns that are known, for the next range to begin with.
    pub value_columns: ValueColumns,
}

/// A row group's place in the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    /// The base offset of its first batch.
    pub(crate) base: i64,
    /// Where its bytes start.
    pub(crate) start: u64,
    /// How many there are.
    pub(crate) length: u64,
    /// Their CRC-32C.
    pub(crate) crc32c: u32,
    /// The last so many are the last batch, whole: it cannot be made again of its rows. 0 if it
    /// can. Since version 2.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) kept_bytes: u64,
}

/// What is written under [`FACTS_KEY`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) identity: Identity,
    pub(crate) base_offset: i64,
    pub(crate) end_offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) records: u64,
    pub(crate) batches: u64,
    pub(crate) log_bytes: u64,
    pub(crate) max_timestamp_ms: i64,
    pub(crate) epochs: Vec<(i32, i64)>,
    /// Base64.
    pub(crate) producers: String,
    pub(crate) row_groups: Vec<Group>,
    /// Batches without rows, whole, base64: control batches and empty ones.
    pub(crate) bare_batches: Vec<String>,
    /// The typed columns that are known; the object may lack the last of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) value_columns: Vec<ValueColumn>,
    /// Records of whose value something is in no column that it should be in.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) unfit_values: u64,
}

impl Facts {
    pub(crate) fn to_key_value(&self) -> Result<KeyValue, serde_json::Error> {
        Ok(KeyValue::new(FACTS_KEY.to_owned(), serde_json::to_string(self)?))
    }

    /// Reads and checks what holds of every object of this version.
    pub(crate) fn from_key_values(pairs: Option<&Vec<KeyValue>>) -> Result<Self, FormatError> {
        let text = pairs
            .and_then(|pairs| pairs.iter().find(|pair| pair.key == FACTS_KEY))
            .and_then(|pair| pair.value.as_deref())
            .ok_or(FormatError::NotArchive)?;
        let Version { version } = serde_json::from_str(text)?;
        if version == 0 || version > FORMAT_VERSION {
            return Err(FormatError::Version { version });
        }
        let facts: Self = serde_json::from_str(text)?;
        facts.check()?;
        Ok(facts)
    }

    fn check(&self) -> Result<(), FormatError> {
        let bases = self.row_groups.iter().map(|group| group.base);
        let mut expected = self.base_offset;
        for base in bases {
            if base < expected || base >= self.end_offset {
                return Err(FormatError::Inconsistent("row groups out of the range or order"));
            }
            expected = base + 1;
        }
        if self.version == PLAIN_VERSION && self.row_groups.iter().any(|it| it.kept_bytes > 0) {
            return Err(FormatError::Inconsistent("a batch is kept whole in version 1"));
        }
        if self.base_offset < 0 || self.base_offset >= self.end_offset {
            return Err(FormatError::Inconsistent("the range is empty or negative"));
        }
        Ok(())
    }

    pub(crate) fn range_end(&self) -> Result<RangeEnd, FormatError> {
        let mut epochs = Vec::with_capacity(self.epochs.len());
        for (epoch, start) in &self.epochs {
            let start = Offset::new(*start).ok_or(FormatError::Inconsistent("negative offset"))?;
            epochs.push((LeaderEpoch(*epoch), start));
        }
        let value_columns = ValueColumns::new(self.value_columns.clone())
            .ok_or(FormatError::Inconsistent("typed columns that no archive has"))?;
        Ok(RangeEnd { epochs, producers: from_base64(&self.producers)?, value_columns })
    }

    pub(crate) fn bare(&self) -> Result<Vec<Batch>, FormatError> {
        let decode = |text: &String| Ok(Batch::validate(from_base64(text)?)?);
        self.bare_batches.iter().map(decode).collect()
    }

    pub(crate) const fn max_timestamp(&self) -> TimestampMs {
        TimestampMs(self.max_timestamp_ms)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde takes")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde takes")]
pub(crate) const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

pub(crate) fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

pub(crate) fn from_base64(text: &str) -> Result<Bytes, FormatError> {
    let decoded = BASE64.decode(text);
    decoded.map(Bytes::from).or(Err(FormatError::Inconsistent("metadata that is not base64")))
}

/// Identities as the text that they print as.
pub(crate) mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(id: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// As [`text`], of what may be absent: with `default`, and left out where there is none.
pub(crate) mod optional_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde takes")]
    pub(crate) fn serialize<T: Display, S: Serializer>(
        id: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => to.collect_str(id),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

/// A partition's index as its number.
pub(crate) mod number {
    use millstream_types::PartitionIndex;
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde takes")]
    pub(crate) fn serialize<S: Serializer>(id: &PartitionIndex, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(id.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<PartitionIndex, D::Error> {
        u32::deserialize(from).map(PartitionIndex)
    }
}
