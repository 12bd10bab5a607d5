//! A simulated file: what is on the device, what is in the page cache, and how they come apart.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use bytes::Bytes;

use crate::rng::Rng;

/// What the device writes whole or not at all, unless it tears.
const SECTOR_BYTES: u64 = 512;

/// Files stay below this, so that a stray position does not take all memory.
pub(super) const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Bytes of a file; those from `bytes.len()` to `len` are zero.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    bytes: Vec<u8>,
    len: u64,
}

#[derive(Debug)]
enum Change {
    Write { position: u64, data: Bytes },
    Len(u64),
}

/// One simulated file.
#[derive(Debug, Default)]
pub(super) struct Inode {
    durable: Content,
    cached: Content,
    /// What makes `cached` of `durable`, oldest first. A cut is always the last.
    changes: VecDeque<Change>,
    /// Whether the last of `changes` is a cut.
    cut: bool,
    /// Changes ever made.
    pub(super) change_count: u64,
    /// Bytes of the device that are taken; writes below never run out of space.
    pub(super) allocated: u64,
    /// The name it has now, if it has one.
    pub(super) path: Option<PathBuf>,
}

impl Inode {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path: Some(path), ..Self::default() }
    }

    pub(super) fn len(&self) -> u64 {
        self.cached.len
    }

    pub(super) fn read(&self, position: u64, len: usize) -> Bytes {
        let left = index(self.cached.len.saturating_sub(position));
        let mut out = vec![0; len.min(left)];
        let there = self.cached.bytes.get(index(position)..).unwrap_or_default();
        for (to, from) in out.iter_mut().zip(there) {
            *to = *from;
        }
        Bytes::from(out)
    }

    pub(super) fn write(&mut self, position: u64, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.settle_cut();
        self.cached.write(position, &data);
        self.allocated = self.allocated.max(position.saturating_add(data.len() as u64));
        self.changed(Change::Write { position, data });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.settle_cut();
        if len < self.cached.len {
            self.allocated = self.allocated.min(len);
            self.cut = true;
        }
        self.cached.set_len(len);
        self.changed(Change::Len(len));
    }

    pub(super) fn preallocate(&mut self, len: u64) {
        self.settle_cut();
        self.allocated = self.allocated.max(len);
        if len > self.cached.len {
            self.cached.set_len(len);
            self.changed(Change::Len(len));
        }
    }

    fn changed(&mut self, change: Change) {
        self.changes.push_back(change);
        self.change_count += 1;
    }

    /// The contract: what follows an unsynced cut waits until it is durable.
    fn settle_cut(&mut self) {
        if self.cut {
            self.sync(self.change_count);
        }
    }

    /// Makes the first `count` changes ever made durable.
    pub(super) fn sync(&mut self, count: u64) {
        let mut first = self.change_count - self.changes.len() as u64;
        while first < count
            && let Some(change) = self.changes.pop_front()
        {
            match change {
                Change::Write { position, data } => self.durable.write(position, &data),
                Change::Len(len) => self.durable.set_len(len),
            }
            first += 1;
        }
        self.cut &= !self.changes.is_empty();
    }

    /// Loses what `rng` says of the unsynced changes. Each sector ends as some write left it, as it
    /// was, or torn between two such states; the length as some change left it.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        let mut lens = vec![self.durable.len];
        let mut fates = BTreeMap::new();
        let mut len = self.durable.len;
        for change in &self.changes {
            len = match change {
                Change::Write { position, data } => {
                    for (sector, _, _) in sectors(*position, data) {
                        fates.entry(sector).or_insert(Fate::default()).writes += 1;
                    }
                    len.max(position.saturating_add(data.len() as u64))
                }
                Change::Len(len) => *len,
            };
            lens.push(len);
        }
        for fate in fates.values_mut() {
            fate.draw(rng);
        }
        for change in &self.changes {
            let Change::Write { position, data } = change else { continue };
            for (sector, at, part) in sectors(*position, data) {
                let keep = fates.get_mut(&sector).map_or(0, |fate| fate.next(sector, at));
                self.durable.write(at, part.get(..keep.min(part.len())).unwrap_or_default());
            }
        }
        let last = lens.len() - 1;
        let kept = if rng.chance(40) { last } else { rng.index(lens.len()) };
        self.durable.set_len(lens.get(kept).copied().unwrap_or_default());
        self.cached = self.durable.clone();
        self.changes.clear();
        self.cut = false;
        self.allocated = self.allocated.max(self.durable.len);
    }

    /// Bytes on the device that are not a hole.
    pub(super) fn durable_bytes(&self) -> usize {
        self.durable.bytes.len()
    }

    /// Turns a bit over, on the device and in the cache.
    pub(super) fn flip(&mut self, position: u64, bit: u8) {
        for content in [&mut self.durable, &mut self.cached] {
            if position < content.len {
                content.reach(position + 1);
                if let Some(byte) = content.bytes.get_mut(index(position)) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }
}

impl Content {
    fn write(&mut self, position: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = position.saturating_add(data.len() as u64);
        self.len = self.len.max(end);
        self.reach(end);
        if let Some(to) = self.bytes.get_mut(index(position)..index(end)) {
            to.copy_from_slice(data);
        }
    }

    fn set_len(&mut self, len: u64) {
        self.len = len;
        self.bytes.truncate(index(len));
    }

    fn reach(&mut self, end: u64) {
        if self.bytes.len() < index(end) {
            self.bytes.resize(index(end), 0);
        }
    }
}

/// What a power cut does to a sector that was written `writes` times since the last sync.
#[derive(Default)]
struct Fate {
    writes: u64,
    /// Of those, the first so many are there in full ...
    kept: u64,
    /// ... and of the next one the bytes below this offset in the sector.
    torn_at: u64,
    seen: u64,
}

impl Fate {
    fn draw(&mut self, rng: &mut Rng) {
        self.kept = match rng.below(4) {
            0 => 0,
            1 => self.writes,
            _ => rng.below(self.writes + 1),
        };
        self.torn_at = if rng.chance(25) { rng.below(SECTOR_BYTES) } else { 0 };
    }

    /// How many bytes of the sector's next write, which begins at `at`, are there.
    fn next(&mut self, sector: u64, at: u64) -> usize {
        let this = self.seen;
        self.seen += 1;
        if this < self.kept {
            return usize::MAX;
        }
        if this > self.kept {
            return 0;
        }
        index((sector * SECTOR_BYTES + self.torn_at).saturating_sub(at))
    }
}

/// The parts of a write by sector: its number, where the part begins, and its bytes.
fn sectors(position: u64, data: &[u8]) -> impl Iterator<Item = (u64, u64, &[u8])> {
    let mut at = position;
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let sector = at / SECTOR_BYTES;
        let room = index((sector + 1) * SECTOR_BYTES - at).min(rest.len());
        let (part, tail) = rest.split_at(room);
        let found = (sector, at, part);
        at += room as u64;
        rest = tail;
        Some(found)
    })
}

/// A position as an index; those that do not fit are beyond every file.
fn index(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    #[derive(Debug, Clone)]
    enum Step {
        Write { position: u64, len: usize },
        Sync,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u64..6000, 1usize..2000)
                .prop_map(|(position, len)| Step::Write { position, len }),
            1 => Just(Step::Sync),
        ]
    }

    /// Per byte: the value at the last sync, and every value written since, in order.
    fn histories(steps: &[Step]) -> (Inode, Vec<Vec<u8>>) {
        let mut inode = Inode::default();
        let mut histories = vec![vec![0u8]; 8000];
        for (value, step) in (1u8..).zip(steps) {
            match step {
                Step::Write { position, len } => {
                    let at = index(*position);
                    inode.write(*position, Bytes::from(vec![value; *len]));
                    for history in &mut histories[at..at + len] {
                        history.push(value);
                    }
                }
                Step::Sync => {
                    inode.sync(inode.change_count);
                    for history in &mut histories {
                        let last = *history.last().unwrap();
                        *history = vec![last];
                    }
                }
            }
        }
        (inode, histories)
    }

    proptest! {
        #[test]
        fn after_a_crash_synced_bytes_are_intact_and_the_rest_is_old_or_new(
            steps in prop::collection::vec(step(), 1..30),
            seed: u64,
        ) {
            let (mut inode, histories) = histories(&steps);
            let synced_len = inode.durable.len;
            let full_len = inode.cached.len;
            inode.crash(&mut Rng::new(seed));
            let after = inode.read(0, 10_000);
            prop_assert!(inode.len() >= synced_len && inode.len() <= full_len);
            for (byte, history) in after.iter().zip(&histories) {
                prop_assert!(history.contains(byte), "{byte} is none of {history:?}");
            }
            // Inside a sector, the bytes a write covers alone change at most once: at the tear.
            for (n, sector) in after.chunks(512).enumerate() {
                let histories = &histories[n * 512..n * 512 + sector.len()];
                if histories.iter().all(|h| *h == histories[0]) {
                    let changes = sector.windows(2).filter(|pair| pair[0] != pair[1]).count();
                    prop_assert!(changes <= 1, "{changes} changes in sector {n}");
                }
            }
        }

        #[test]
        fn a_cut_is_never_overtaken(cut in 1u64..3000, seed: u64) {
            let mut inode = Inode::default();
            inode.write(0, Bytes::from(vec![1; 3000]));
            inode.sync(1);
            inode.set_len(cut);
            inode.write(cut, Bytes::from(vec![2; 10]));
            inode.crash(&mut Rng::new(seed));
            let after = inode.read(0, 5000);
            prop_assert!(after[..index(cut)].iter().all(|&byte| byte == 1));
            prop_assert!(after[index(cut)..].iter().all(|&byte| byte == 2 || byte == 0));
        }
    }

    #[test]
    fn every_fate_of_a_sector_happens() {
        let mut seen = [0; 3];
        for seed in 0..200 {
            let mut inode = Inode::default();
            inode.set_len(512);
            inode.sync(1);
            inode.write(0, Bytes::from(vec![7; 512]));
            inode.crash(&mut Rng::new(seed));
            let new = inode.read(0, 512).iter().filter(|&&byte| byte == 7).count();
            seen[match new {
                0 => 0,
                512 => 1,
                _ => 2,
            }] += 1;
        }
        assert!(seen.iter().all(|&n| n > 10), "lost, kept, torn: {seen:?}");
    }
}
