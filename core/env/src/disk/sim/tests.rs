use std::collections::BTreeSet;

use super::*;
use crate::disk::contract::{self, Subject};
use crate::disk::{DiskError, OpenMode};

#[derive(Debug, Default)]
struct Acks(Mutex<Vec<(OpToken, bool)>>);

impl Completions for Acks {
    fn complete(&self, _: FileId, token: OpToken, result: DiskResult<()>) {
        lock(&self.0).push((token, result.is_ok()));
    }
}

fn subject(disk: &SimDisk) -> Subject<'_> {
    Subject { disk, advance: contract::step, sim: Some(disk) }
}

fn sim(seed: u64, ready_per_cent: u8, faults: FaultPlan) -> SimDisk {
    SimDisk::new(seed, SimDiskConfig { ready_per_cent, faults })
}

#[test]
fn the_contract_holds() {
    for seed in 0..20 {
        for ready_per_cent in [0, 50, 100] {
            contract::check(&subject(&sim(seed, ready_per_cent, FaultPlan::default())));
        }
    }
}

#[test]
fn the_first_failed_sync_fences() {
    for ready_per_cent in [0, 100] {
        let disk = sim(1, ready_per_cent, FaultPlan::default());
        contract::check_fence(&subject(&disk), || {
            let fail_sync = Some(disk.syncs() + 1);
            disk.set_faults(FaultPlan { fail_sync, ..FaultPlan::default() });
        });
        assert!(disk.is_fenced());
    }
}

#[test]
fn a_full_disk_refuses_and_goes_on() {
    let faults = FaultPlan { space_bytes_max: Some(10_000), ..FaultPlan::default() };
    contract::check_no_space(&subject(&sim(1, 50, faults)), 20_000);
}

const RECORD: usize = 700;

/// Appends records to a file and syncs after each, then renames and begins another; returns how
/// many syncs of each file were acknowledged.
fn workload(disk: &SimDisk) -> Vec<(PathBuf, u64)> {
    let mut acknowledged = Vec::new();
    if disk.create_dir_all(Path::new("d")).is_err() {
        return acknowledged;
    }
    for n in 0..3u8 {
        let path = PathBuf::from(format!("d/{n}"));
        let acks = Arc::new(Acks::default());
        let completions = Arc::<Acks>::clone(&acks);
        let Ok(file) = disk.open(&path, OpenMode::CreateNew, completions) else {
            break;
        };
        acknowledged.push((path, 0));
        for record in 0..4u64 {
            let data = [Bytes::from(vec![value(n, record); RECORD])];
            let at = record * RECORD as u64;
            if !done(disk, &acks, disk.submit_write(file, at, &data, OpToken(record)))
                || !done(disk, &acks, disk.submit_sync(file, OpToken(record)))
            {
                return acknowledged;
            }
            acknowledged.last_mut().unwrap().1 = record + 1;
        }
        disk.close(file);
    }
    acknowledged
}

fn value(file: u8, record: u64) -> u8 {
    file * 16 + u8::try_from(record).unwrap() + 1
}

fn done(disk: &SimDisk, acks: &Acks, submitted: Poll<DiskResult<()>>) -> bool {
    match submitted {
        Poll::Ready(result) => result.is_ok(),
        Poll::Pending => {
            disk.run_until_idle();
            lock(&acks.0).pop().is_some_and(|(_, ok)| ok)
        }
    }
}

#[test]
fn a_power_cut_at_every_operation_loses_nothing_acknowledged() {
    for seed in 0..30 {
        let whole = sim(seed, 50, FaultPlan::default());
        assert_eq!(workload(&whole).iter().map(|file| file.1).sum::<u64>(), 12);
        assert_eq!(whole.ops(), 1 + 3 * (1 + 8));
        for cut in 0..=whole.ops() {
            let faults = FaultPlan { power_cut_after: Some(cut), ..FaultPlan::default() };
            let disk = sim(seed, 50, faults);
            let acknowledged = workload(&disk);
            assert!(disk.ops() == cut && !disk.is_on());
            disk.crash();
            assert!(disk.list(Path::new("")).is_err());
            disk.restart();
            for (n, (path, records)) in acknowledged.iter().enumerate() {
                let Ok(file) = disk.open(path, OpenMode::Existing, Arc::new(Acks::default()))
                else {
                    assert_eq!(*records, 0, "seed {seed}, cut {cut}: {path:?} is gone");
                    continue;
                };
                let bytes = disk.read_at(file, 0, 10 * RECORD).unwrap();
                for (at, &byte) in bytes.iter().enumerate() {
                    let record = (at / RECORD) as u64;
                    let written = value(u8::try_from(n).unwrap(), record);
                    let may_be_lost = record >= *records;
                    assert!(byte == written || (may_be_lost && byte == 0));
                }
                assert!(bytes.len() as u64 >= records * RECORD as u64);
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let faults = FaultPlan { power_cut_after: Some(16), ..FaultPlan::default() };
        let disk = sim(seed, 30, faults);
        workload(&disk);
        disk.crash();
        disk.restart();
        let mut found = Vec::new();
        for entry in disk.list(Path::new("d")).unwrap() {
            let path = Path::new("d").join(entry.name);
            let file = disk.open(&path, OpenMode::Existing, Arc::new(Acks::default())).unwrap();
            found.push((path, disk.read_at(file, 0, 10_000).unwrap()));
        }
        found
    };
    assert_eq!(run(5), run(5));
    let different: BTreeSet<_> = (0..20).map(run).collect();
    assert!(different.len() > 3, "{}", different.len());
}

#[test]
fn unsynced_creations_and_removals_happen_or_not() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let disk = sim(seed, 100, FaultPlan::default());
        let open = |name: &str| {
            disk.open(Path::new(name), OpenMode::CreateNew, Arc::new(Acks::default())).unwrap()
        };
        open("removed");
        open("removed-for-sure");
        disk.create_dir_all(Path::new("dir")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        disk.remove_file(Path::new("removed-for-sure")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        disk.remove_file(Path::new("removed")).unwrap();
        open("created");
        let synced = open("dir/synced");
        assert!(disk.submit_sync(synced, OpToken(1)).is_ready());
        let renamed = open("dir/a");
        assert!(disk.submit_sync(renamed, OpToken(1)).is_ready());
        disk.rename(Path::new("dir/a"), Path::new("renamed")).unwrap();
        disk.crash();
        disk.restart();
        let root: Vec<String> =
            disk.list(Path::new("")).unwrap().into_iter().map(|entry| entry.name).collect();
        let dir: Vec<String> =
            disk.list(Path::new("dir")).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(dir, ["synced"]);
        assert!(root.contains(&"renamed".to_owned()));
        assert!(!root.contains(&"removed-for-sure".to_owned()));
        seen.insert(root);
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_dead_process_loses_nothing_it_was_told() {
    let disk = sim(3, 100, FaultPlan::default());
    workload(&disk);
    let file = disk.open(Path::new("d/0"), OpenMode::Existing, Arc::new(Acks::default())).unwrap();
    assert!(disk.submit_write(file, 0, &[Bytes::from_static(b"new")], OpToken(1)).is_ready());
    disk.restart();
    assert!(disk.read_at(file, 0, 1).is_err());
    let file = disk.open(Path::new("d/0"), OpenMode::Existing, Arc::new(Acks::default())).unwrap();
    assert_eq!(disk.read_at(file, 0, 3).unwrap(), &b"new"[..]);
}

#[test]
fn planned_and_random_flips_are_there_after_a_restart() {
    let disk = sim(3, 100, FaultPlan::default());
    workload(&disk);
    let read = |name: &str| {
        let acks = Arc::new(Acks::default());
        let file = disk.open(Path::new(name), OpenMode::Existing, acks).unwrap();
        disk.read_at(file, 0, 10_000).unwrap().to_vec()
    };
    let before = read("d/1");
    let flips = vec![BitFlip { path: "d/1".into(), position: 9, bit: 2 }];
    disk.set_faults(FaultPlan { flips, ..FaultPlan::default() });
    disk.restart();
    let mut expected = before;
    expected[9] ^= 4;
    assert_eq!(read("d/1"), expected);
    let all = |name: &str| ["d/0", "d/1", "d/2", name].map(read).concat();
    let before = all("d/0");
    disk.set_faults(FaultPlan { rot_bits: 1, ..FaultPlan::default() });
    disk.restart();
    let after = all("d/0");
    let flipped = before.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
    assert!(flipped == 1 || flipped == 2, "d/0 is read twice: {flipped}");
}

#[test]
fn nothing_completes_without_power() {
    let disk = sim(1, 0, FaultPlan { power_cut_after: Some(1), ..FaultPlan::default() });
    let acks = Arc::new(Acks::default());
    let opened = disk.open(Path::new("f"), OpenMode::CreateNew, Arc::<Acks>::clone(&acks));
    if let Ok(file) = opened {
        assert!(disk.submit_sync(file, OpToken(1)).is_pending());
        disk.run_until_idle();
        assert!(matches!(disk.len(file), Err(DiskError::Io { .. })));
    }
    assert!(!disk.is_on() && lock(&acks.0).is_empty());
}
