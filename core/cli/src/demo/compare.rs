//! What came out against what went in: count, order within each key, and every byte.

use std::collections::BTreeMap;

use bytes::Bytes;

/// FNV-1a's parameters for 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A checksum over records in order: any record changed, missing, doubled or moved changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chain(u64);

impl Chain {
    const EMPTY: Self = Self(FNV_OFFSET);

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

/// One side of the comparison: for each key how many records, and their chain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Side {
    keys: BTreeMap<Bytes, (u64, Chain)>,
}

impl Side {
    /// Adds the next record of its key.
    pub(super) fn add(&mut self, key: &[u8], timestamp_ms: i64, value: &[u8]) {
        if !self.keys.contains_key(key) {
            self.keys.insert(Bytes::copy_from_slice(key), (0, Chain::EMPTY));
        }
        if let Some((count, chain)) = self.keys.get_mut(key) {
            *count += 1;
            chain.add(&timestamp_ms.to_le_bytes());
            chain.add(&(value.len() as u64).to_le_bytes());
            chain.add(value);
        }
    }

    pub(super) fn records(&self) -> u64 {
        self.keys.values().map(|(count, _)| count).sum()
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// One number for everything, whatever the order between keys was.
    pub(super) fn checksum(&self) -> String {
        let mut total = Chain::EMPTY;
        for (key, (count, chain)) in &self.keys {
            total.add(&(key.len() as u64).to_le_bytes());
            total.add(key);
            total.add(&count.to_le_bytes());
            total.add(&chain.0.to_le_bytes());
        }
        format!("{:016x}", total.0)
    }

    /// The first key, in order, on which the sides differ, and how.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let all: std::collections::BTreeSet<&Bytes> =
            self.keys.keys().chain(other.keys.keys()).collect();
        for key in all {
            let name = String::from_utf8_lossy(key);
            match (self.keys.get(key), other.keys.get(key)) {
                (Some(sent), Some(read)) if sent == read => {}
                (Some((sent, _)), Some((read, _))) if sent == read => {
                    return Some(format!("key {name}: records differ, or their order does"));
                }
                (sent, read) => {
                    let count = |side: Option<&(u64, Chain)>| side.map_or(0, |(count, _)| *count);
                    let (sent, read) = (count(sent), count(read));
                    return Some(format!("key {name}: {sent} records sent, {read} read back"));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(records: &[(&str, i64, &str)]) -> Side {
        let mut side = Side::default();
        for (key, timestamp, value) in records {
            side.add(key.as_bytes(), *timestamp, value.as_bytes());
        }
        side
    }

    #[test]
    fn order_between_keys_does_not_matter() {
        let sent = side(&[("a", 1, "x"), ("b", 2, "y"), ("a", 3, "z")]);
        let read = side(&[("b", 2, "y"), ("a", 1, "x"), ("a", 3, "z")]);
        assert_eq!(sent.difference(&read), None);
        assert_eq!(sent.checksum(), read.checksum());
    }

    #[test]
    fn anything_else_does() {
        let sent = side(&[("a", 1, "x"), ("b", 2, "y"), ("a", 3, "z")]);
        let wrong = [
            side(&[("a", 3, "z"), ("b", 2, "y"), ("a", 1, "x")]),
            side(&[("a", 1, "x"), ("b", 2, "y")]),
            side(&[("a", 1, "x"), ("b", 2, "y"), ("a", 3, "z"), ("a", 3, "z")]),
            side(&[("a", 1, "x"), ("b", 2, "y"), ("a", 4, "z")]),
            side(&[("a", 1, "x"), ("b", 2, "q"), ("a", 3, "z")]),
            side(&[("a", 1, "x"), ("a", 2, "y"), ("a", 3, "z")]),
            side(&[("a", 1, "x"), ("b", 2, "y"), ("a", 3, "z"), ("c", 4, "")]),
            side(&[]),
        ];
        for read in wrong {
            assert!(sent.difference(&read).is_some(), "{read:?}");
            assert_ne!(sent.checksum(), read.checksum(), "{read:?}");
        }
    }
}
