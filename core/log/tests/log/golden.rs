//! Segment files of format version 1, byte for byte, which every later build must open and, as
//! long as version 1 is what it writes, write again. `MILLSTREAM_BLESS=1` writes them anew.

use std::path::{Path, PathBuf};

use crate::common::{Bench, DIR, small_segments};
use bytes::Bytes;
use millstream_env::disk::{Disk, FaultPlan, OpToken, OpenMode};
use millstream_types::Offset;

const SEALED: (&str, &str) = ("v1-sealed.seg", "00000000000000000000.seg");
const UNSEALED: (&str, &str) = ("v1-unsealed.seg", "00000000000000000005.seg");

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn empty() -> Bench {
    Bench::new(1, 100, small_segments(), FaultPlan::default())
}

/// Three batches of two epochs, sealed, then two more and a good end.
fn written() -> Bench {
    let mut bench = empty();
    bench.open().unwrap();
    for records in [1, 2, 2] {
        bench.append(records, 60).unwrap();
        bench.now += 1000;
        bench.epoch += i32::from(records == 1);
        bench.settle().unwrap();
    }
    bench.roll().unwrap();
    for records in [1, 1] {
        bench.append(records, 60).unwrap();
        bench.settle().unwrap();
    }
    bench.log.take().unwrap().close();
    bench
}

#[test]
fn the_files_written_are_the_golden_ones() {
    let bench = written();
    for (name, file) in [SEALED, UNSEALED] {
        let path = Path::new(DIR).join(file);
        let id = bench.disk.open(&path, OpenMode::Existing, bench.queue.clone()).unwrap();
        let len = usize::try_from(bench.disk.len(id).unwrap()).unwrap();
        let bytes = bench.disk.read_at(id, 0, len).unwrap();
        if std::env::var_os("MILLSTREAM_BLESS").is_some() {
            std::fs::write(golden(name), &bytes).unwrap();
        }
        assert!(bytes == std::fs::read(golden(name)).unwrap(), "{name} differs");
    }
}

#[test]
fn the_golden_files_open() {
    let mut bench = empty();
    bench.disk.create_dir_all(Path::new(DIR)).unwrap();
    for (name, file) in [SEALED, UNSEALED] {
        let bytes = Bytes::from(std::fs::read(golden(name)).unwrap());
        let path = Path::new(DIR).join(file);
        let id = bench.disk.open(&path, OpenMode::CreateNew, bench.queue.clone()).unwrap();
        assert!(bench.disk.submit_write(id, 0, &[bytes], OpToken(1)).is_ready());
        bench.disk.close(id);
    }
    bench.open().unwrap();
    bench.appended = written().appended;
    assert_eq!(bench.log().end(), Offset::new(7).unwrap());
    assert_eq!(bench.log().durable_end(), bench.log().end());
    assert_eq!(bench.snapshot.as_deref(), Some(b"state at 5".as_slice()));
    let epochs: Vec<_> = bench.log().epochs().starts().iter().map(|one| one.epoch.0).collect();
    assert_eq!(epochs, [1, 2]);
    bench.check_recovered(Offset::new(7).unwrap());
}
