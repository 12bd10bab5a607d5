//! Whatever happens to the files, what comes back is what went in, or nothing.

use super::*;

const KEY: &str = "topics/t.1/0/object.parquet";
/// Two blocks with the header.
const LENGTH: usize = 5_000;

fn bytes_of(start: u64) -> Bytes {
    (0..LENGTH).map(|at| u8::try_from((start + at as u64) % 251).unwrap()).collect()
}

fn range_at(start: u64) -> Range<u64> {
    start..start + LENGTH as u64
}

async fn put(cache: &Arc<DiskCache>, start: u64) {
    cache.put(KEY, start, bytes_of(start));
    cache.written().await;
}

fn on_the_disk(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap();
    files.map(|file| on_disk(file.unwrap().metadata().unwrap().len())).sum()
}

#[tokio::test]
async fn the_bound_holds_and_the_longest_unused_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let bytes_max = 10 * 2 * BLOCK_BYTES;
    let cache = DiskCache::open(dir.path(), bytes_max);
    for start in 0..10 {
        put(&cache, start).await;
    }
    assert_eq!(cache.get(KEY, &range_at(0)).await, Some(bytes_of(0)));
    for start in 10..19 {
        put(&cache, start).await;
        assert!(on_the_disk(dir.path()) <= bytes_max);
        assert!(cache.counters().held_bytes <= bytes_max);
    }
    assert_eq!(cache.get(KEY, &range_at(0)).await, Some(bytes_of(0)), "it was used");
    assert_eq!(cache.get(KEY, &range_at(1)).await, None);
    let counters = cache.counters();
    assert_eq!((counters.hits, counters.misses), (2, 1));
    assert_eq!(counters.written_bytes, 19 * LENGTH as u64);
    // What is larger than all of it is not kept, and evicts nothing.
    cache.put(KEY, 99, vec![1; usize::try_from(bytes_max).unwrap()].into());
    cache.written().await;
    assert_eq!(cache.get(KEY, &range_at(18)).await, Some(bytes_of(18)));
}

#[tokio::test]
async fn a_file_that_is_anything_but_whole_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), 1 << 20);
    let path = cache.path(name_of(KEY, &range_at(7)));
    put(&cache, 7).await;
    let whole = std::fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..HEADER_BYTES + 2)
        .chain([whole.len() / 2, whole.len() - 1])
        .map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        })
        .collect();
    damaged.extend([Vec::new(), whole[..20].to_vec(), whole[..whole.len() - 1].to_vec()]);
    damaged.push([&whole[..], &[0]].concat());
    for (case, bytes) in damaged.into_iter().enumerate() {
        put(&cache, 7).await;
        assert_eq!(cache.get(KEY, &range_at(7)).await, Some(bytes_of(7)), "case {case}");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(cache.get(KEY, &range_at(7)).await, None, "case {case}");
        assert!(!path.exists(), "case {case}");
    }
    // A file of another range under this one's name.
    put(&cache, 7).await;
    put(&cache, 8).await;
    std::fs::rename(cache.path(name_of(KEY, &range_at(8))), &path).unwrap();
    assert_eq!(cache.get(KEY, &range_at(7)).await, None);
    assert_eq!(cache.get(KEY, &range_at(8)).await, None, "it is gone");
    assert!(!cache.is_off());
    assert_eq!(cache.counters().held_bytes, 0);
}

#[tokio::test]
async fn the_next_start_goes_on_with_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), 1 << 20);
    for start in 0..6 {
        put(&cache, start).await;
    }
    let held = cache.counters().held_bytes;
    std::fs::write(dir.path().join("9.tmp"), "a write that a crash cut off").unwrap();
    let again = DiskCache::open(dir.path(), 1 << 20);
    assert_eq!(again.counters().held_bytes, held);
    assert!(!dir.path().join("9.tmp").exists());
    for start in 0..6 {
        assert_eq!(again.get(KEY, &range_at(start)).await, Some(bytes_of(start)));
    }
    let smaller = DiskCache::open(dir.path(), 3 * 2 * BLOCK_BYTES);
    assert_eq!(smaller.counters().held_bytes, 3 * 2 * BLOCK_BYTES);
    assert_eq!(on_the_disk(dir.path()), 3 * 2 * BLOCK_BYTES);
    DiskCache::clear(dir.path());
    assert!(!dir.path().exists());
    DiskCache::clear(dir.path());
}

#[tokio::test]
async fn a_full_disk_turns_it_off_and_gets_its_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), 1 << 20);
    put(&cache, 1).await;
    // Where the next file is to be written there is no space left.
    std::os::unix::fs::symlink("/dev/full", dir.path().join("2.tmp")).unwrap();
    put(&cache, 2).await;
    assert!(cache.is_off());
    assert_eq!(cache.get(KEY, &range_at(1)).await, None);
    assert_eq!(cache.counters().held_bytes, 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    put(&cache, 3).await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it stays off");
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_no_cache() {
    let dir = tempfile::tempdir().unwrap();
    let in_the_way = dir.path().join("file");
    std::fs::write(&in_the_way, "").unwrap();
    let cache = DiskCache::open(&in_the_way, 1 << 20);
    assert!(cache.is_off());
    put(&cache, 1).await;
    assert_eq!(cache.get(KEY, &range_at(1)).await, None);
}
