//! What the fuzz targets call: decoders that are private, and promises that need private writers.

use std::cell::Cell;
use std::sync::OnceLock;

use bytes::Bytes;
use millstream_types::{ClusterId, LeaderEpoch, Offset, TimestampMs};
use millstream_wire::{Batch, crc32c};

use crate::decode::ObjectReader;
use crate::encode::{EncodedObject, Encoder, footer_start};
use crate::footer::{Identity, RangeEnd};
use crate::manifest::{Chain, Entry, Manifest};
use crate::topics::ArchivedTopic;

/// Format 1 as it was written first.
const GOLDEN: &[u8] = include_bytes!("../tests/testdata/range-v1.parquet");

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is where a panic becomes an error.
#[must_use]
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// While it lives, this thread is guarded.
pub(crate) struct Guard;

impl Guard {
    pub(crate) fn new() -> Self {
        GUARDED.set(true);
        Self
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDED.set(false);
    }
}

/// Reads `bytes` as a footer, as a whole object, or as what stands in a row group of a sound object
/// whose pages are not compressed, from the offset on that two bytes tell; by `kind`. CRCs are made
/// to fit.
pub fn fuzz_object(kind: u8, bytes: &[u8]) {
    match kind {
        0 => {
            if let Ok(object) = ObjectReader::open(bytes) {
                exercise(&object);
            }
        }
        1 => {
            let Some(start) = footer_start(bytes) else { return };
            let Ok(mut object) = ObjectReader::open(&bytes[start..]) else { return };
            exercise(&object);
            for part in 0..object.parts() {
                let span = object.span(part);
                let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                let Some(group) = bytes.get(index(span.start)..index(span.end)) else { continue };
                replay(&mut object, part, Bytes::copy_from_slice(group));
            }
        }
        _ => {
            let Some((at, patch)) = bytes.split_first_chunk() else { return };
            let sound = sound();
            let mut object = open(&sound.bytes);
            let span = object.span(0);
            let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            let mut group = sound.bytes[index(span.start)..index(span.end)].to_vec();
            let at = usize::from(u16::from_le_bytes(*at)) % group.len();
            let length = patch.len().min(group.len() - at);
            group[at..at + length].copy_from_slice(&patch[..length]);
            replay(&mut object, 0, group.into());
        }
    }
}

/// What reads as a manifest is written and read the same, and the chain that it makes holds
/// together and goes on.
pub fn fuzz_manifest(bytes: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else {
        let mut chain = Chain::new(open(GOLDEN).identity());
        _ = chain.apply(bytes);
        return;
    };
    let written = serde_json::to_vec_pretty(&manifest).expect("what was read is written");
    assert_eq!(serde_json::from_slice::<Manifest>(&written).expect("and read"), manifest);
    let identity = Identity {
        cluster: manifest.cluster.unwrap_or(ClusterId::NIL),
        topic: String::new(),
        topic_id: manifest.topic_id,
        partition: manifest.partition,
    };
    let mut fresh = Chain::new(&identity);
    if fresh.apply(bytes).is_ok() {
        goes_on(&fresh);
    }
    let mut full = Chain::new(&identity);
    if full.start_at(manifest.number, bytes).is_ok() {
        goes_on(&full);
        _ = full.apply(bytes);
    }
}

/// What reads as a topic's config is written and read the same.
pub fn fuzz_topic_config(bytes: &[u8]) {
    ArchivedTopic::check_config(bytes);
}

fn open(object: &[u8]) -> ObjectReader {
    let start = footer_start(object).expect("a whole object");
    ObjectReader::open(&object[start..]).expect("a sound footer")
}

/// The golden object's batches in pages that are not compressed, so that what is changed in them is
/// what decoders see.
fn sound() -> &'static EncodedObject {
    static SOUND: OnceLock<EncodedObject> = OnceLock::new();
    SOUND.get_or_init(|| {
        let golden = open(GOLDEN);
        let index = |at: u64| usize::try_from(at).expect("a small object");
        let span = golden.span(0);
        let group = Bytes::from_static(&GOLDEN[index(span.start)..index(span.end)]);
        let mut encoder =
            Encoder::uncompressed(golden.identity().clone(), golden.base()).expect("an encoder");
        for bytes in golden.replay(0, group).expect("a sound row group") {
            encoder.push(&Batch::validate(bytes).expect("a batch")).expect("the next batch");
        }
        encoder.finish(&RangeEnd::default()).expect("an object")
    })
}

fn exercise(object: &ObjectReader) {
    _ = object.range_end();
    assert!(object.base() < object.end());
    assert_eq!(object.part_of(object.base()), 0);
    for part in 0..object.parts() {
        let span = object.span(part);
        assert!(span.start <= span.end);
        _ = object.may_reach(part, TimestampMs(0));
        drop(object.replay(part, Bytes::new()));
    }
    assert!(object.part_of(object.end()) < object.parts());
}

fn replay(object: &mut ObjectReader, part: usize, bytes: Bytes) {
    object.expect_crc(part, crc32c(&bytes));
    let Ok(batches) = object.replay(part, bytes) else { return };
    for bytes in batches {
        let batch = Batch::validate(bytes).expect("what is replayed are batches");
        if let Ok(records) = batch.records() {
            records.for_each(drop);
        }
    }
}

fn goes_on(chain: &Chain) {
    let head = *chain.head().expect("a manifest was taken up");
    assert!(head.start <= head.end);
    let end = chain.entries().iter().try_fold(head.start, |at, entry| {
        (entry.base == at && entry.end > at).then_some(entry.end)
    });
    assert_eq!(end, Some(head.end), "entries follow each other from the start to the end");
    let start = Offset::new(head.start).expect("an offset");
    assert_eq!(chain.find(start).is_some(), head.start < head.end);
    let epoch = LeaderEpoch(head.leader_epoch);
    if let Some(last) = chain.entries().back() {
        let next = Entry { base: last.end, end: last.end.saturating_add(1), ..Entry::clone(last) };
        if let Ok((bytes, after)) = chain.add(epoch, next) {
            let mut read = chain.clone();
            read.apply(&bytes).expect("what was written is read");
            assert_eq!(read, after);
        }
    }
    drop(chain.trim(epoch, Offset::new(head.end).expect("an offset")));
}
