//! Spreads hot keys over several partitions; all others stay where every Kafka client puts them.
//!
//! | option | | default |
//! |---|---|---|
//! | `spread` | the most partitions that one key is spread over, 2 to 64 | 8 |
//! | `fill` | how much of a partition's fair load one key may bring it, in percent | 50 |
//! | `order-by` | a header: records of a hot key with one value of it stay in order | |
//!
//! A key's partitions follow the one that it had, so that a key that turns hot, or stops being hot,
//! stays on that one in part. Order is per partition: without `order-by`, records of a hot key have
//! none among them.

use millstream_sdk::{
    Config, DEFAULT_PARTITION, Error, Hot, Key, Manifest, Needs, Partitioner, Result, VerdictSet,
    default_partition, murmur2,
};

const SPREAD_MAX: u32 = 64;
/// Of the table of hot keys: four times as many as there can be.
const SLOTS: usize = 4096;

/// A hot key and its share in millionths.
type HotKey = (Vec<u8>, u32);

/// The plugin.
#[derive(Debug)]
pub struct HotKeySplitter {
    spread: u32,
    fill_percent: u32,
    order_by: Option<Vec<u8>>,
    keys: Vec<HotKey>,
    /// For each hash, one more than the index of the first key in `keys` that may be there; a key
    /// that is not there is in the next slot, up to an empty one.
    slots: Box<[u16; SLOTS]>,
}

impl Partitioner for HotKeySplitter {
    const MANIFEST: Manifest = Manifest {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        needs: Needs::HEADERS,
        verdicts: VerdictSet::NONE,
    };

    fn configure(config: &Config<'_>) -> Result<Self> {
        config.only(&["spread", "fill", "order-by"])?;
        Ok(HotKeySplitter {
            spread: number(config, "spread", 8, 2, SPREAD_MAX)?,
            fill_percent: number(config, "fill", 50, 1, 1000)?,
            order_by: config.get("order-by").map(|name| name.as_bytes().to_vec()),
            keys: Vec::new(),
            slots: Box::new([0; SLOTS]),
        })
    }

    fn hotlist(&mut self, hot: &Hot<'_>) {
        self.keys.clear();
        self.slots.fill(0);
        for key in hot.iter().take(SLOTS / 4) {
            self.keys.push((key.key.to_vec(), key.share_ppm));
            let number = u16::try_from(self.keys.len()).unwrap_or(u16::MAX);
            let mut slot = slot_of(key.key);
            while self.slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            self.slots[slot] = number;
        }
    }

    #[inline]
    fn assign(&self, record: &Key<'_>, partitions: u32) -> u32 {
        let Some(key) = record.key else { return DEFAULT_PARTITION };
        match self.share_of(key) {
            None => DEFAULT_PARTITION,
            Some(share_ppm) => self.place(record, key, share_ppm, partitions),
        }
    }
}

impl HotKeySplitter {
    #[inline]
    fn share_of(&self, key: &[u8]) -> Option<u32> {
        if self.keys.is_empty() {
            return None;
        }
        let mut slot = slot_of(key);
        // A quarter of the slots are taken at most.
        while let Some(index) = usize::from(self.slots[slot]).checked_sub(1) {
            let (hot, share_ppm) = self.keys.get(index)?;
            if hot == key {
                return Some(*share_ppm);
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }

    fn place(&self, record: &Key<'_>, key: &[u8], share_ppm: u32, partitions: u32) -> u32 {
        let width = self.width(share_ppm, partitions);
        let ordered = self.order_by.as_ref().and_then(|name| record.headers.last(name).flatten());
        let step = match ordered {
            Some(value) => default_partition(value, width),
            None => mixed(record.sequence ^ murmur2(key)).checked_rem(width).unwrap_or(0),
        };
        (default_partition(key, partitions) + step).checked_rem(partitions).unwrap_or(0)
    }

    /// Over how many partitions a key of that share goes.
    fn width(&self, share_ppm: u32, partitions: u32) -> u32 {
        // A partition's fair load is a million divided by the partitions.
        let loads = u64::from(share_ppm) * u64::from(partitions) * 100;
        let needed = loads.div_ceil(1_000_000 * u64::from(self.fill_percent));
        let needed = u32::try_from(needed).unwrap_or(u32::MAX);
        needed.clamp(2, self.spread).min(partitions)
    }
}

/// Numbers that follow one another, or in steps, are spread as if by chance (the end of Murmur3, by
/// Austin Appleby). A producer that goes round its keys counts each of them in steps, and plain
/// remainders of these would leave a hot key on one partition.
#[inline]
fn mixed(number: u32) -> u32 {
    let number = (number ^ number >> 16).wrapping_mul(0x85eb_ca6b);
    let number = (number ^ number >> 13).wrapping_mul(0xc2b2_ae35);
    number ^ number >> 16
}

/// Of every byte: keys that differ in a few bytes of their middle must not all be looked for in one
/// place.
#[inline]
fn slot_of(key: &[u8]) -> usize {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = key.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word));
    let hash = words.fold(key.len() as u64, |hash, word| {
        (hash.rotate_left(29) ^ word).wrapping_mul(MULTIPLIER)
    });
    // Of the high bits, which all of the key has gone into.
    usize::try_from(hash >> 52).unwrap_or(0) % SLOTS
}

fn number(config: &Config<'_>, name: &str, default: u32, min: u32, max: u32) -> Result<u32> {
    let Some(text) = config.get(name) else { return Ok(default) };
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(Error::new(format!("`{name}` is {text:?}, not a number from {min} to {max}"))),
    }
}

millstream_sdk::partitioner!(struct HotKeySplitter);

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use millstream_sdk::testing::{PartitionerTester, Sample};

    use super::*;

    fn places(
        options: &[(&str, &str)],
        hot: &[(&[u8], u32)],
        key: &str,
        partitions: u32,
    ) -> BTreeSet<Option<u32>> {
        let mut tester = PartitionerTester::<HotKeySplitter>::new(options).unwrap();
        tester.hotlist(hot).unwrap();
        let records: Vec<(u32, Sample)> =
            (0..1000).map(|sequence| (sequence, Sample::new(key, ""))).collect();
        tester.assign(&records, partitions).unwrap().into_iter().collect()
    }

    #[test]
    fn cold_keys_stay_where_they_are() {
        let hot: [(&[u8], u32); 1] = [(b"SFO", 300_000)];
        for key in ["", "SF", "SFOO", "JFK", "a long key of many bytes"] {
            assert_eq!(places(&[], &hot, key, 12), BTreeSet::from([None]), "{key}");
            assert_eq!(places(&[], &[], key, 12), BTreeSet::from([None]), "{key}");
        }
        let tester = PartitionerTester::<HotKeySplitter>::new(&[]).unwrap();
        assert_eq!(tester.assign(&[(0, Sample::value("v"))], 3).unwrap(), [None]);
    }

    #[test]
    fn hot_keys_get_as_many_partitions_as_they_need() {
        for (share_ppm, partitions, width) in [
            (1, 12, 2),        // never fewer than two
            (250_000, 12, 6),  // three fair loads, at half a load each
            (500_000, 100, 8), // never more than `spread`
            (900_000, 3, 3),   // never more than there are
            (900_000, 1, 1),
        ] {
            let places = places(&[], &[(b"SFO", share_ppm)], "SFO", partitions);
            assert_eq!(places.len(), width, "{share_ppm} of {partitions}");
            let usual = Some(default_partition(b"SFO", partitions));
            assert!(places.contains(&usual), "{places:?} {usual:?}");
        }
        let options = [("spread", "64"), ("fill", "100")];
        assert_eq!(places(&options, &[(b"SFO", 500_000)], "SFO", 100).len(), 50);
    }

    /// As by a producer that goes round so many keys.
    #[test]
    fn steps_of_any_length_use_every_partition_of_a_key() {
        for step in [1, 2, 3, 4, 6, 8, 12, 16, 64, 100] {
            let mut tester = PartitionerTester::<HotKeySplitter>::new(&[]).unwrap();
            tester.hotlist(&[(b"SFO", 900_000)]).unwrap();
            let numbered = |at: u32| (at * step, Sample::new("SFO", ""));
            let records: Vec<(u32, Sample)> = (0..1000).map(numbered).collect();
            let mut counts = BTreeMap::new();
            for place in tester.assign(&records, 16).unwrap() {
                *counts.entry(place).or_insert(0) += 1;
            }
            assert_eq!(counts.len(), 8, "{step}: {counts:?}");
            assert!(counts.values().all(|count| (75..=175).contains(count)), "{step}: {counts:?}");
        }
    }

    #[test]
    fn keys_that_differ_anywhere_lie_in_many_slots() {
        for at in [0, 7, 8, 12, 15, 16, 20, 25] {
            let slots: BTreeSet<usize> = (0..=255)
                .map(|byte| {
                    let mut key = *b"order-eu-00001234-v1-final";
                    key[at] = byte;
                    slot_of(&key)
                })
                .collect();
            assert!(slots.len() > 200, "byte {at}: {}", slots.len());
        }
    }

    #[test]
    fn placement_repeats_and_follows_the_list() {
        let mut tester = PartitionerTester::<HotKeySplitter>::new(&[]).unwrap();
        let records: Vec<(u32, Sample)> = (0..100)
            .map(|sequence| (sequence, Sample::new(format!("key-{}", sequence % 10), "")))
            .collect();
        let list: [(&[u8], u32); 2] = [(b"key-3", 200_000), (b"key-7", 100_000)];
        tester.hotlist(&list).unwrap();
        let first = tester.assign(&records, 12).unwrap();
        tester.hotlist(&[]).unwrap();
        assert!(tester.assign(&records, 12).unwrap().iter().all(Option::is_none));
        tester.hotlist(&list).unwrap();
        assert_eq!(tester.assign(&records, 12).unwrap(), first);
    }

    #[test]
    fn a_full_list_is_found_key_by_key() {
        let keys: Vec<String> = (0..1024).map(|number| format!("key-{number}")).collect();
        let list: Vec<(&[u8], u32)> = keys.iter().map(|key| (key.as_bytes(), 900)).collect();
        let mut tester = PartitionerTester::<HotKeySplitter>::new(&[]).unwrap();
        tester.hotlist(&list).unwrap();
        let records: Vec<(u32, Sample)> =
            (0..2048).map(|number| (number, Sample::new(format!("key-{number}"), ""))).collect();
        let placed = tester.assign(&records, 12).unwrap();
        assert!(placed[..1024].iter().all(Option::is_some));
        assert!(placed[1024..].iter().all(Option::is_none));
    }

    #[test]
    fn a_header_keeps_its_records_in_order() {
        let mut tester =
            PartitionerTester::<HotKeySplitter>::new(&[("order-by", "flight")]).unwrap();
        tester.hotlist(&[(b"SFO", 500_000)]).unwrap();
        let records: Vec<(u32, Sample)> = (0..900)
            .map(|number| (number, Sample::new("SFO", "").header("flight", [(number % 90) as u8])))
            .collect();
        let placed = tester.assign(&records, 12).unwrap();
        for (index, place) in placed.iter().enumerate().skip(90) {
            assert_eq!(*place, placed[index - 90]);
        }
        assert!(placed.iter().collect::<BTreeSet<_>>().len() > 4);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for options in [[("spread", "1")], [("spread", "65")], [("fill", "0")], [("sprad", "4")]] {
            assert!(PartitionerTester::<HotKeySplitter>::new(&options).is_err(), "{options:?}");
        }
    }
}
