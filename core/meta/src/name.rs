//! Topic names, by Kafka's rules (`org.apache.kafka.common.internals.Topic`).

use std::sync::Arc;

use millstream_types::limits::TOPIC_NAME_BYTES_MAX;

use crate::error::{MetaError, clip};

/// Accepts what Kafka accepts: 1 to 249 of `[a-zA-Z0-9._-]`, and neither `.` nor `..`.
///
/// # Errors
/// [`MetaError::InvalidTopicName`], saying which rule was broken.
pub fn validate_topic_name(name: &str) -> Result<(), MetaError> {
    let refuse = |reason: &str| {
        Err(MetaError::InvalidTopicName { name: clip(name), reason: reason.to_owned() })
    };
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name == "." || name == ".." {
        return refuse("`.` and `..` are reserved");
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return refuse("it is longer than 249 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return refuse("only `a-z`, `A-Z`, `0-9`, `.`, `_` and `-` are allowed");
    }
    Ok(())
}

/// What two names share when they differ only in `.` and `_`. Kafka refuses such pairs because
/// metric names cannot tell them apart; so do we, which makes this a unique key.
pub(crate) fn collision_key(name: &str) -> Arc<str> {
    if name.contains('.') { name.replace('.', "_").into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kafka_accepts_are_accepted() {
        let longest = "x".repeat(249);
        for name in ["a", "A-9_b.c", "...", "__consumer_offsets", &longest] {
            assert_eq!(validate_topic_name(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn names_that_kafka_refuses_are_refused() {
        let too_long = "x".repeat(250);
        for name in ["", ".", "..", "a b", "a/b", "ä", "a\0", &too_long] {
            let refused = validate_topic_name(name);
            assert!(matches!(refused, Err(MetaError::InvalidTopicName { .. })), "{name:?}");
        }
    }

    #[test]
    fn names_that_differ_in_dot_and_underscore_share_a_key() {
        assert_eq!(collision_key("a.b_c"), collision_key("a_b.c"));
        assert_ne!(collision_key("a.b"), collision_key("a-b"));
    }
}
