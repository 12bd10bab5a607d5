//! How identities and numbers of the vocabulary crate stand in JSON: 128-bit identities as 32
//! hexadecimal digits, numbers as numbers.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serializer};

/// One value as the text it prints.
pub(crate) mod text {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A list of values, each as the text it prints.
pub(crate) mod texts {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(
        values: &[T],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
    }
}

/// Declares the form of a number type as its inner number.
macro_rules! number_form {
    ($module:ident, $type:ident, $inner:ty) => {
        pub(crate) mod $module {
            use millstream_types::$type;
            use serde::{Deserialize, Deserializer, Serializer};

            pub(crate) fn serialize<S: Serializer>(
                value: &$type,
                to: S,
            ) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&value.0, to)
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                from: D,
            ) -> Result<$type, D::Error> {
                <$inner>::deserialize(from).map($type)
            }
        }
    };
}

number_form!(broker, BrokerId, u32);
number_form!(timestamp, TimestampMs, i64);
number_form!(producer, ProducerId, i64);
number_form!(epoch, LeaderEpoch, i32);
number_form!(partition, PartitionIndex, u32);

/// Producer ids as a list of numbers.
pub(crate) mod producers {
    use millstream_types::ProducerId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(ids: &[ProducerId], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(ids.iter().map(|id| id.0))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<ProducerId>, D::Error> {
        Ok(Vec::<i64>::deserialize(from)?.into_iter().map(ProducerId).collect())
    }
}

/// An offset as its number.
pub(crate) mod offset {
    use millstream_types::Offset;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Offset, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(value.value())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Offset, D::Error> {
        let value = i64::deserialize(from)?;
        Offset::new(value).ok_or_else(|| serde::de::Error::custom("an offset is not negative"))
    }
}
