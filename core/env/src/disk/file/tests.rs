use std::sync::mpsc::{SyncSender, sync_channel};

use super::*;
use crate::disk::DiskError;
use crate::disk::contract::{self, Subject};

fn subject(disk: &FileDisk) -> Subject<'_> {
    Subject { disk, advance: contract::wait_a_little, sim: None }
}

fn open(root: &Path, config: &FileDiskConfig) -> FileDisk {
    FileDisk::open_root(root, config).unwrap()
}

/// Sends each result on.
#[derive(Debug)]
struct Sent(SyncSender<(OpToken, DiskResult<()>)>);

impl Completions for Sent {
    fn complete(&self, _: FileId, token: OpToken, result: DiskResult<()>) {
        self.0.send((token, result)).unwrap();
    }
}

#[test]
fn the_contract_holds() {
    let few = FileDiskConfig { open_files_max: 8, ..FileDiskConfig::default() };
    let no_queue = FileDiskConfig { queue_ops_max: 0, ..FileDiskConfig::default() };
    let threads = FileDiskConfig {
        inline_write_bytes_max: 0,
        writer_threads: 2,
        syncer_threads: 2,
        open_files_max: 1,
        ..FileDiskConfig::default()
    };
    for config in [FileDiskConfig::default(), few, no_queue, threads] {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(dir.path(), &config);
        contract::check(&subject(&disk));
        assert!(disk.stats().files_open <= config.open_files_max as u64);
        assert!(lock(&disk.engine.names).is_empty(), "closed files are forgotten");
        assert!(!disk.is_fenced());
    }
}

#[test]
fn the_first_failed_sync_fences_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), &FileDiskConfig::default());
    contract::check_fence(&subject(&disk), || disk.fail_next_sync());
    assert_eq!(disk.fence_reason().as_deref(), Some("sync of fence: injected"));
}

#[test]
fn a_failed_sync_before_a_descriptor_is_closed_fences_too() {
    let dir = tempfile::tempdir().unwrap();
    let config = FileDiskConfig { open_files_max: 1, ..FileDiskConfig::default() };
    let disk = open(dir.path(), &config);
    let (sender, _receiver) = sync_channel(1);
    let sent = Arc::new(Sent(sender));
    let create = |name: &str| {
        let completions = Arc::<Sent>::clone(&sent);
        disk.open(Path::new(name), OpenMode::CreateNew, completions).unwrap()
    };
    let file = create("a");
    disk.fail_next_sync();
    create("b");
    assert!(!disk.is_fenced(), "a clean descriptor closes without a sync");
    assert!(disk.submit_write(file, 0, &[Bytes::from_static(b"x")], OpToken(1)).is_ready());
    create("c");
    assert!(disk.is_fenced());
}

#[test]
fn requests_that_wait_together_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let config = FileDiskConfig { syncer_threads: 1, ..FileDiskConfig::default() };
    let disk = open(dir.path(), &config);
    // Holds up the only syncer in the completion of its first sync.
    let (sender, receiver) = sync_channel(0);
    let sent = Arc::new(Sent(sender));
    let create = |name: &str| {
        let completions = Arc::<Sent>::clone(&sent);
        disk.open(Path::new(name), OpenMode::CreateNew, completions).unwrap()
    };
    let (first, second) = (create("first"), create("second"));
    assert!(disk.submit_sync(first, OpToken(0)).is_pending());
    for n in 1..=50 {
        let data = [Bytes::from(vec![1; 10])];
        assert!(disk.submit_write(second, n * 10, &data, OpToken(n)).is_ready());
        assert!(disk.submit_sync(second, OpToken(n)).is_pending());
    }
    for n in 0..=50 {
        let (token, result) = receiver.recv().unwrap();
        assert_eq!(token, OpToken(n));
        result.unwrap();
    }
    let stats = disk.stats();
    assert_eq!((stats.sync_requests, stats.syncs), (51, 2));
    assert_eq!((stats.writes, stats.bytes_written), (50, 500));
    assert!(stats.sync_ns_max > 0 && stats.sync_ns_sum >= stats.sync_ns_max);
    // Nothing was written since.
    assert!(disk.submit_sync(second, OpToken(51)).is_ready());
}

#[test]
fn a_directory_has_one_disk_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("made/if/missing");
    let disk = open(&root, &FileDiskConfig::default());
    let second = FileDisk::open_root(&root, &FileDiskConfig::default());
    assert!(matches!(second, Err(FileDiskError::Locked { .. })));
    drop(disk);
    open(&root, &FileDiskConfig::default());
}

#[test]
fn what_was_submitted_is_done_before_the_disk_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let config = FileDiskConfig { inline_write_bytes_max: 0, ..FileDiskConfig::default() };
    let disk = open(dir.path(), &config);
    let (sender, receiver) = sync_channel(1000);
    let file = disk.open(Path::new("f"), OpenMode::CreateNew, Arc::new(Sent(sender))).unwrap();
    for n in 0..100 {
        let data = [Bytes::from(vec![n; 1000])];
        let at = u64::from(n) * 1000;
        assert!(disk.submit_write(file, at, &data, OpToken(u64::from(n))).is_pending());
        assert!(disk.submit_sync(file, OpToken(1000 + u64::from(n))).is_pending());
    }
    drop(disk);
    assert_eq!(receiver.into_iter().filter(|(_, result)| result.is_ok()).count(), 200);
    assert_eq!(std::fs::metadata(dir.path().join("f")).unwrap().len(), 100_000);
}

/// A completion that submits until it has had enough.
#[derive(Debug)]
struct Again {
    disk: std::sync::Weak<FileDisk>,
    done: SyncSender<()>,
}

impl Completions for Again {
    fn complete(&self, file: FileId, token: OpToken, result: DiskResult<()>) {
        result.unwrap();
        let mut next = token.0;
        while let Some(disk) = self.disk.upgrade() {
            if next == 100 {
                self.done.send(()).unwrap();
                return;
            }
            next += 1;
            let data = [Bytes::from(vec![1; 10])];
            match disk.submit_write(file, next * 10, &data, OpToken(next)) {
                Poll::Ready(result) => result.unwrap(),
                Poll::Pending => return,
            }
        }
    }
}

#[test]
fn a_completion_may_submit_though_the_queue_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        FileDiskConfig { inline_write_bytes_max: 0, queue_ops_max: 1, ..FileDiskConfig::default() };
    let disk = Arc::new(open(dir.path(), &config));
    let (done, receiver) = sync_channel(10);
    let again = Again { disk: Arc::downgrade(&disk), done };
    let file = disk.open(Path::new("f"), OpenMode::CreateNew, Arc::new(again)).unwrap();
    let submitted = disk.submit_write(file, 0, &[Bytes::from_static(b"x")], OpToken(0));
    assert!(submitted.is_pending());
    receiver.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!(disk.len(file).unwrap(), 1010);
}

#[test]
fn the_operating_systems_errors_keep_their_meaning() {
    use crate::disk::path::io_error;
    let of = |errno: rustix::io::Errno| io_error(Path::new("f"), errno.into());
    assert!(matches!(of(rustix::io::Errno::NOSPC), DiskError::NoSpace));
    assert!(matches!(of(rustix::io::Errno::DQUOT), DiskError::NoSpace));
    assert!(matches!(of(rustix::io::Errno::NOENT), DiskError::NotFound(_)));
    assert!(matches!(of(rustix::io::Errno::EXIST), DiskError::Exists(_)));
    assert!(matches!(of(rustix::io::Errno::IO), DiskError::Io { .. }));
}

/// Needs a file system of one or two megabytes, mounted at `SMALL_DISK_DIR`.
#[test]
#[ignore = "needs a small file system"]
fn a_full_disk_refuses_and_goes_on() {
    let root = std::env::var_os("SMALL_DISK_DIR").unwrap();
    let disk = open(Path::new(&root), &FileDiskConfig::default());
    contract::check_no_space(&subject(&disk), 8 << 20);
    assert!(!disk.is_fenced());
}

/// Measures what `syncer_threads` says: run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn thousand_dirty_files() {
    for syncer_threads in [1, 2, 4, 8, 16] {
        let dir = tempfile::tempdir_in(".").unwrap();
        let config =
            FileDiskConfig { syncer_threads, open_files_max: 2000, ..FileDiskConfig::default() };
        let disk = open(dir.path(), &config);
        let (sender, receiver) = sync_channel(1000);
        let sent = Arc::new(Sent(sender));
        let mut files = Vec::new();
        for n in 0..1000 {
            let path = PathBuf::from(format!("{n}"));
            let completions = Arc::<Sent>::clone(&sent);
            let file = disk.open(&path, OpenMode::CreateNew, completions).unwrap();
            disk.preallocate(file, 1 << 20).unwrap();
            files.push(file);
        }
        for round in 0..3u64 {
            for (n, &file) in files.iter().enumerate() {
                let data = [Bytes::from(vec![1; 4096 << (n % 3)])];
                let at = round * 16_384;
                assert!(disk.submit_write(file, at, &data, OpToken(0)).is_ready());
            }
            let start = std::time::Instant::now();
            for &file in &files {
                assert!(disk.submit_sync(file, OpToken(0)).is_pending());
            }
            for _ in &files {
                receiver.recv().unwrap().1.unwrap();
            }
            println!("{syncer_threads} threads, round {round}: {:?}", start.elapsed());
        }
    }
}

/// Measures the path of small writes: run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn small_writes() {
    const WRITES: u32 = 200_000;
    let dir = tempfile::tempdir_in(".").unwrap();
    let disk = open(dir.path(), &FileDiskConfig::default());
    let (sender, _receiver) = sync_channel(1);
    let file = disk.open(Path::new("f"), OpenMode::CreateNew, Arc::new(Sent(sender))).unwrap();
    let data = [Bytes::from(vec![1; 61]), Bytes::from(vec![2; 963])];
    for round in 0..3 {
        let start = std::time::Instant::now();
        for n in 0..WRITES {
            assert!(disk.submit_write(file, u64::from(n) * 1024, &data, OpToken(0)).is_ready());
        }
        println!("round {round}: {:?} a write of 1 KiB", start.elapsed() / WRITES);
    }
}
