//! The contract of [`Disk`] as tests that the real and the simulated disk both pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::{Completions, Disk, DiskError, DiskResult, FileId, OpToken, OpenMode};
use crate::lock;

/// A disk under test, and how to make time pass for it.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) disk: &'a dyn Disk,
    /// Lets operations in flight go on.
    pub(super) advance: fn(&Subject<'a>),
    pub(super) sim: Option<&'a super::SimDisk>,
}

/// Notes what completed; a second completion of an operation is a failure.
#[derive(Debug, Default)]
pub(super) struct Notes {
    done: Mutex<BTreeMap<(FileId, OpToken), DiskResult<()>>>,
}

impl Completions for Notes {
    fn complete(&self, file: FileId, token: OpToken, result: DiskResult<()>) {
        let before = lock(&self.done).insert((file, token), result);
        assert!(before.is_none(), "{file:?} {token:?} completed twice");
    }
}

/// Lets the threads of a real disk run.
pub(super) fn wait_a_little(_: &Subject<'_>) {
    std::thread::park_timeout(Duration::from_micros(200));
}

/// Does one operation of a simulated disk.
pub(super) fn step(subject: &Subject<'_>) {
    subject.sim.unwrap().step();
}

impl Subject<'_> {
    fn wait(&self, notes: &Notes, file: FileId, token: OpToken) -> DiskResult<()> {
        for _ in 0..100_000 {
            if let Some(result) = lock(&notes.done).remove(&(file, token)) {
                return result;
            }
            (self.advance)(self);
        }
        panic!("{token:?} never completed");
    }

    fn write(&self, notes: &Notes, file: FileId, at: u64, data: &[Bytes]) -> DiskResult<()> {
        match self.disk.submit_write(file, at, data, OpToken(u64::MAX)) {
            Poll::Ready(result) => result,
            Poll::Pending => self.wait(notes, file, OpToken(u64::MAX)),
        }
    }

    fn sync(&self, notes: &Notes, file: FileId) -> DiskResult<()> {
        match self.disk.submit_sync(file, OpToken(u64::MAX)) {
            Poll::Ready(result) => result,
            Poll::Pending => self.wait(notes, file, OpToken(u64::MAX)),
        }
    }

    fn open(&self, path: &str, mode: OpenMode, notes: &Arc<Notes>) -> DiskResult<FileId> {
        self.disk.open(Path::new(path), mode, Arc::<Notes>::clone(notes))
    }

    fn create(&self, path: &str, notes: &Arc<Notes>) -> FileId {
        self.open(path, OpenMode::CreateNew, notes).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = self.disk.list(Path::new(path)).unwrap();
        entries.into_iter().map(|e| e.name + if e.is_dir { "/" } else { "" }).collect()
    }
}

fn of(bytes: &'static [u8]) -> Bytes {
    Bytes::from_static(bytes)
}

/// Runs all of the contract that needs no fault, each part in a directory of its own.
pub(super) fn check(subject: &Subject<'_>) {
    reads_see_completed_writes(subject);
    large_writes_complete(subject);
    every_sync_request_completes(subject);
    lengths(subject);
    preallocated_room_reads_as_zero(subject);
    names_and_lists(subject);
    renames(subject);
    removed_files_stay_readable(subject);
    two_ids_are_one_file(subject);
    many_files(subject);
    bad_requests(subject);
}

fn reads_see_completed_writes(subject: &Subject<'_>) {
    let notes = Arc::default();
    let file = subject.create("rw", &notes);
    let pieces = [of(b"one"), of(b""), of(b"two"), of(b"three")];
    subject.write(&notes, file, 0, &pieces).unwrap();
    subject.write(&notes, file, 3, &[of(b"TWO")]).unwrap();
    subject.write(&notes, file, 14, &[of(b"end")]).unwrap();
    subject.write(&notes, file, 90, &[]).unwrap();
    let disk = subject.disk;
    assert_eq!(disk.len(file).unwrap(), 17);
    assert_eq!(disk.read_at(file, 0, 100).unwrap(), &b"oneTWOthree\0\0\0end"[..]);
    assert_eq!(disk.read_at(file, 4, 3).unwrap(), &b"WOt"[..]);
    assert_eq!(disk.read_at(file, 17, 5).unwrap(), &b""[..]);
    assert_eq!(disk.read_at(file, 99, 5).unwrap(), &b""[..]);
    subject.sync(&notes, file).unwrap();
    subject.sync(&notes, file).unwrap();
    disk.close(file);
    let file = subject.open("rw", OpenMode::Existing, &notes).unwrap();
    subject.sync(&notes, file).unwrap();
    assert_eq!(disk.read_at(file, 0, 6).unwrap(), &b"oneTWO"[..]);
    disk.close(file);
    assert!(matches!(disk.read_at(file, 0, 6), Err(DiskError::Io { .. })));
}

fn large_writes_complete(subject: &Subject<'_>) {
    const PIECE: usize = 100_000;
    let notes = Arc::default();
    let file = subject.create("large", &notes);
    let mut pending = Vec::new();
    for n in 0..20u8 {
        let data = [Bytes::from(vec![n; PIECE]), Bytes::from(vec![n + 100; PIECE])];
        let at = u64::from(n) * 2 * PIECE as u64;
        match subject.disk.submit_write(file, at, &data, OpToken(u64::from(n))) {
            Poll::Ready(result) => result.unwrap(),
            Poll::Pending => pending.push(OpToken(u64::from(n))),
        }
    }
    // Closing forgets the number, not the operations.
    let reader = subject.open("large", OpenMode::Existing, &notes).unwrap();
    subject.disk.close(file);
    for token in pending {
        subject.wait(&notes, file, token).unwrap();
    }
    let all = subject.disk.read_at(reader, 0, usize::MAX / 2).unwrap();
    assert_eq!(all.len(), 40 * PIECE);
    for n in 0..20u8 {
        let both = &all[usize::from(n) * 2 * PIECE..][..2 * PIECE];
        assert!(both[..PIECE].iter().all(|&byte| byte == n));
        assert!(both[PIECE..].iter().all(|&byte| byte == n + 100));
    }
    subject.disk.close(reader);
}

fn every_sync_request_completes(subject: &Subject<'_>) {
    let notes = Arc::default();
    let file = subject.create("sync", &notes);
    let mut pending = Vec::new();
    for n in 0..200 {
        subject.write(&notes, file, n, &[of(b"x")]).unwrap();
        match subject.disk.submit_sync(file, OpToken(n)) {
            Poll::Ready(result) => result.unwrap(),
            Poll::Pending => pending.push(OpToken(n)),
        }
    }
    for token in pending {
        subject.wait(&notes, file, token).unwrap();
    }
    subject.disk.close(file);
}

fn lengths(subject: &Subject<'_>) {
    let notes = Arc::default();
    let disk = subject.disk;
    let file = subject.create("len", &notes);
    subject.write(&notes, file, 0, &[of(b"abcdef")]).unwrap();
    disk.set_len(file, 2).unwrap();
    assert_eq!(disk.read_at(file, 0, 9).unwrap(), &b"ab"[..]);
    disk.set_len(file, 5).unwrap();
    assert_eq!(disk.read_at(file, 0, 9).unwrap(), &b"ab\0\0\0"[..]);
    disk.set_len(file, 1).unwrap();
    subject.write(&notes, file, 3, &[of(b"z")]).unwrap();
    subject.sync(&notes, file).unwrap();
    assert_eq!(disk.read_at(file, 0, 9).unwrap(), &b"a\0\0z"[..]);
    disk.close(file);
}

fn preallocated_room_reads_as_zero(subject: &Subject<'_>) {
    let notes = Arc::default();
    let disk = subject.disk;
    let file = subject.create("room", &notes);
    subject.write(&notes, file, 0, &[of(b"abc")]).unwrap();
    disk.preallocate(file, 10_000).unwrap();
    assert_eq!(disk.len(file).unwrap(), 10_000);
    disk.preallocate(file, 5).unwrap();
    assert_eq!(disk.len(file).unwrap(), 10_000);
    let read = disk.read_at(file, 0, 20_000).unwrap();
    assert_eq!((read.len(), &read[..3]), (10_000, &b"abc"[..]));
    assert!(read[3..].iter().all(|&byte| byte == 0));
    disk.close(file);
}

fn names_and_lists(subject: &Subject<'_>) {
    let notes = Arc::default();
    let disk = subject.disk;
    disk.create_dir_all(Path::new("names/b/c")).unwrap();
    disk.create_dir_all(Path::new("names/b")).unwrap();
    for name in ["names/z", "names/a", "names/b/1", "names-other"] {
        disk.close(subject.create(name, &notes));
    }
    assert_eq!(subject.names("names"), ["a", "b/", "z"]);
    assert_eq!(subject.names("names/b"), ["1", "c/"]);
    assert!(subject.names("").contains(&"names/".to_owned()));
    assert!(!subject.names("").contains(&"LOCK".to_owned()));
    disk.sync_dir(Path::new("names")).unwrap();
    disk.remove_dir_all(Path::new("names")).unwrap();
    disk.remove_dir_all(Path::new("names")).unwrap();
    assert!(matches!(disk.list(Path::new("names")), Err(DiskError::NotFound(_))));
    assert!(subject.names("").contains(&"names-other".to_owned()));
    disk.sync_dir(Path::new("")).unwrap();
}

fn renames(subject: &Subject<'_>) {
    let notes = Arc::default();
    let disk = subject.disk;
    disk.create_dir_all(Path::new("ren/d")).unwrap();
    let (old, new) = (subject.create("ren/old", &notes), subject.create("ren/new", &notes));
    subject.write(&notes, old, 0, &[of(b"old")]).unwrap();
    subject.write(&notes, new, 0, &[of(b"new")]).unwrap();
    disk.rename(Path::new("ren/new"), Path::new("ren/old")).unwrap();
    assert_eq!(subject.names("ren"), ["d/", "old"]);
    // Both numbers still stand for their files.
    assert_eq!(disk.read_at(old, 0, 9).unwrap(), &b"old"[..]);
    disk.rename(Path::new("ren/old"), Path::new("ren/d/x")).unwrap();
    subject.write(&notes, new, 3, &[of(b"er")]).unwrap();
    subject.sync(&notes, new).unwrap();
    subject.sync(&notes, old).unwrap();
    let again = subject.open("ren/d/x", OpenMode::Existing, &notes).unwrap();
    assert_eq!(disk.read_at(again, 0, 9).unwrap(), &b"newer"[..]);
    disk.rename(Path::new("ren/d/x"), Path::new("ren/d/x")).unwrap();
    for file in [old, new, again] {
        disk.close(file);
    }
    let missing = disk.rename(Path::new("ren/old"), Path::new("ren/y"));
    assert!(matches!(missing, Err(DiskError::NotFound(_))));
    let directory = disk.rename(Path::new("ren/d"), Path::new("ren/e"));
    assert!(matches!(directory, Err(DiskError::Io { .. })));
    assert_eq!(subject.names("ren/d"), ["x"]);
}

fn removed_files_stay_readable(subject: &Subject<'_>) {
    let notes = Arc::default();
    let disk = subject.disk;
    disk.create_dir_all(Path::new("gone/d")).unwrap();
    let (one, two) = (subject.create("gone/1", &notes), subject.create("gone/d/2", &notes));
    subject.write(&notes, one, 0, &[of(b"one")]).unwrap();
    subject.write(&notes, two, 0, &[of(b"two")]).unwrap();
    // Push their descriptors out where few are kept.
    let many: Vec<FileId> =
        (0..40).map(|n| subject.create(&format!("gone/f{n}"), &notes)).collect();
    disk.remove_file(Path::new("gone/1")).unwrap();
    let new = subject.create("gone/1", &notes);
    disk.remove_dir_all(Path::new("gone")).unwrap();
    for file in many {
        disk.close(file);
    }
    assert_eq!(disk.read_at(one, 0, 9).unwrap(), &b"one"[..]);
    assert_eq!(disk.read_at(two, 0, 9).unwrap(), &b"two"[..]);
    assert_eq!(disk.len(new).unwrap(), 0);
    let again = subject.open("gone/1", OpenMode::Existing, &notes);
    assert!(matches!(again, Err(DiskError::NotFound(_))));
    let again = disk.remove_file(Path::new("gone/1"));
    assert!(matches!(again, Err(DiskError::NotFound(_))));
    for file in [one, two, new] {
        disk.close(file);
    }
}

fn two_ids_are_one_file(subject: &Subject<'_>) {
    let notes = Arc::default();
    let writer = subject.create("two", &notes);
    let reader = subject.open("two", OpenMode::Existing, &notes).unwrap();
    assert_ne!(writer, reader);
    subject.write(&notes, writer, 0, &[of(b"abc")]).unwrap();
    subject.sync(&notes, reader).unwrap();
    assert_eq!(subject.disk.read_at(reader, 0, 9).unwrap(), &b"abc"[..]);
    subject.disk.close(writer);
    assert_eq!(subject.disk.read_at(reader, 1, 9).unwrap(), &b"bc"[..]);
    subject.disk.close(reader);
}

fn many_files(subject: &Subject<'_>) {
    let notes = Arc::default();
    let disk = subject.disk;
    disk.create_dir_all(Path::new("many")).unwrap();
    let files: Vec<FileId> =
        (0..100).map(|n| subject.create(&format!("many/{n:03}"), &notes)).collect();
    for round in 0..3u8 {
        for (n, &file) in (0u8..).zip(&files) {
            let data = Bytes::from(vec![n ^ round; 10]);
            subject.write(&notes, file, u64::from(round) * 10, &[data]).unwrap();
        }
    }
    for (n, &file) in (0u8..).zip(&files) {
        let expected: Vec<u8> = (0..30).map(|i| n ^ (i / 10)).collect();
        assert_eq!(disk.read_at(file, 0, 99).unwrap(), expected);
        disk.close(file);
    }
    assert_eq!(subject.names("many").len(), 100);
}

fn bad_requests(subject: &Subject<'_>) {
    let notes = Arc::default();
    let disk = subject.disk;
    for path in ["../x", "/x", "a/../x", "", "LOCK", "./x"] {
        let opened = subject.open(path, OpenMode::CreateNew, &notes);
        assert!(matches!(opened, Err(DiskError::Io { .. })), "{path}: {opened:?}");
    }
    assert!(disk.list(Path::new("..")).is_err());
    assert!(disk.remove_dir_all(Path::new("")).is_err());
    let missing = subject.open("missing", OpenMode::Existing, &notes);
    assert!(matches!(missing, Err(DiskError::NotFound(_))));
    let missing = subject.open("missing/x", OpenMode::CreateNew, &notes);
    assert!(matches!(missing, Err(DiskError::NotFound(_))));
    let file = subject.create("bad", &notes);
    let again = subject.open("bad", OpenMode::CreateNew, &notes);
    assert!(matches!(again, Err(DiskError::Exists(_))));
    let below = disk.create_dir_all(Path::new("bad/x"));
    assert!(matches!(below, Err(DiskError::Io { .. })), "{below:?}");
    disk.close(file);
    let closed = disk.submit_write(file, 0, &[of(b"x")], OpToken(1));
    assert!(matches!(closed, Poll::Ready(Err(DiskError::Io { .. }))));
    disk.close(file);
}

/// `fail` makes the next sync fail.
pub(super) fn check_fence(subject: &Subject<'_>, fail: impl FnOnce()) {
    let notes = Arc::default();
    let disk = subject.disk;
    let (file, other) = (subject.create("fence", &notes), subject.create("other", &notes));
    subject.write(&notes, other, 0, &[of(b"read me")]).unwrap();
    subject.sync(&notes, other).unwrap();
    subject.write(&notes, file, 0, &[of(b"x")]).unwrap();
    fail();
    let fenced = |result: DiskResult<()>| {
        assert!(matches!(result, Err(DiskError::Fenced(_))), "{result:?}");
    };
    fenced(subject.sync(&notes, file));
    fenced(subject.sync(&notes, file));
    fenced(subject.write(&notes, file, 0, &[of(b"x")]));
    fenced(subject.write(&notes, other, 0, &[Bytes::from(vec![0; 200_000])]));
    fenced(disk.set_len(other, 0));
    fenced(disk.preallocate(other, 100));
    fenced(disk.rename(Path::new("other"), Path::new("another")));
    fenced(disk.remove_file(Path::new("other")));
    fenced(disk.remove_dir_all(Path::new("other")));
    fenced(disk.create_dir_all(Path::new("dir")));
    fenced(disk.sync_dir(Path::new("")));
    fenced(subject.open("new", OpenMode::CreateNew, &notes).map(drop));
    assert_eq!(disk.read_at(other, 0, 9).unwrap(), &b"read me"[..]);
    assert_eq!(subject.names(""), ["fence", "other"]);
    let again = subject.open("other", OpenMode::Existing, &notes).unwrap();
    for file in [file, other, again] {
        disk.close(file);
    }
}

/// The disk has room for less than `bytes`.
pub(super) fn check_no_space(subject: &Subject<'_>, bytes: u64) {
    let notes = Arc::default();
    let file = subject.create("full", &notes);
    subject.write(&notes, file, 0, &[of(b"before")]).unwrap();
    let refused = subject.disk.preallocate(file, bytes);
    assert!(matches!(refused, Err(DiskError::NoSpace)), "{refused:?}");
    let data = Bytes::from(vec![1; usize::try_from(bytes).unwrap()]);
    let refused = subject.write(&notes, file, 6, &[data]);
    assert!(matches!(refused, Err(DiskError::NoSpace)), "{refused:?}");
    subject.disk.set_len(file, 6).unwrap();
    subject.write(&notes, file, 6, &[of(b" and after")]).unwrap();
    subject.sync(&notes, file).unwrap();
    assert_eq!(subject.disk.read_at(file, 0, 99).unwrap(), &b"before and after"[..]);
    subject.disk.close(file);
}
