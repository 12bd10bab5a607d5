//! The simulated disk: memory that loses what a real disk may lose.
//!
//! Everything follows from one seed and the order of the calls; there are no threads and no time.
//! Submitted operations wait until the owner calls [`SimDisk::step`], which does one of them,
//! whichever the seed says. On [`SimDisk::crash`] every 512-byte sector written since the last sync
//! ends as some write left it, as it was, or torn between two such states; lengths, creations and
//! removals that are not durable happened or not; the rest is intact.

mod inode;
mod state;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;

use self::state::{Op, State};
use super::path::{check_dir_path, check_file_path};
use super::{Completions, DirEntry, Disk, DiskResult, FileId, OpToken, OpenMode};
use crate::lock;

/// What goes wrong with a [`SimDisk`], as data.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    /// The sync that fails and fences the disk, counted from 1 over the life of the disk. Syncs of
    /// files and [`Disk::sync_dir`] count.
    pub fail_sync: Option<u64>,
    /// Bytes that fit on the device, in all files together.
    pub space_bytes_max: Option<u64>,
    /// The power goes off after so many operations, as [`SimDisk::ops`] counts them. Later ones
    /// stay pending for ever, or fail where they cannot be pending, until the disk crashes and
    /// restarts.
    pub power_cut_after: Option<u64>,
    /// Bits found flipped at the next restart.
    pub flips: Vec<BitFlip>,
    /// Bits anywhere in the files found flipped at the next restart.
    pub rot_bits: u32,
}

/// One flipped bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitFlip {
    /// The file. Nothing happens if it does not exist.
    pub path: PathBuf,
    /// The byte in it. Nothing happens beyond its end.
    pub position: u64,
    /// The bit in the byte, 0 to 7.
    pub bit: u8,
}

/// How a [`SimDisk`] behaves.
#[derive(Debug, Clone, Default)]
pub struct SimDiskConfig {
    /// How many in a hundred writes and syncs are done within the submitting call. 100 needs no
    /// [`SimDisk::step`].
    pub ready_per_cent: u8,
    /// What goes wrong.
    pub faults: FaultPlan,
}

/// A [`Disk`] in memory; see the module.
pub struct SimDisk {
    state: Mutex<State>,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64, config: SimDiskConfig) -> Self {
        Self { state: Mutex::new(State::new(seed, config)) }
    }

    /// Does one of the waiting operations and completes it, in this thread; false if none waits or
    /// the power is off.
    pub fn step(&self) -> bool {
        let mut state = lock(&self.state);
        if !state.is_on() {
            return false;
        }
        let Some(op) = state.draw_op() else { return false };
        let result = state.perform(&op);
        drop(state);
        if let Some(result) = result {
            op.completions.complete(op.file, op.token, result);
        }
        true
    }

    /// Steps until nothing waits; what completions submit is done too.
    pub fn run_until_idle(&self) {
        while self.step() {}
    }

    /// Operations that wait for a step.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.state).queue.len()
    }

    /// Operations done that change the disk or make it durable, failed ones included: writes,
    /// syncs, lengths, creations, removals, renames. To cut the power at every point of a workload,
    /// run it once to learn how many there are, then once for each count up to that.
    #[must_use]
    pub fn ops(&self) -> u64 {
        lock(&self.state).ops
    }

    /// Syncs done, as [`FaultPlan::fail_sync`] counts them.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        lock(&self.state).syncs
    }

    /// Whether the power is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        lock(&self.state).is_on()
    }

    /// Whether a sync has failed since the start.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        lock(&self.state).fence.is_some()
    }

    /// Replaces what is to go wrong from now on.
    pub fn set_faults(&self, faults: FaultPlan) {
        lock(&self.state).faults = faults;
    }

    /// Cuts the power, if it was not cut already, and loses what was not durable. Operations that
    /// were waiting have happened or not. The disk stays off until [`Self::restart`].
    pub fn crash(&self) {
        lock(&self.state).crash();
    }

    /// Starts the machine again: no file is open, nothing waits, nothing is fenced, and the planned
    /// flips are there; the plan's sync failure and power cut are over. Without a crash before, it
    /// is the process that died and came back: nothing it had written is lost.
    pub fn restart(&self) {
        lock(&self.state).restart();
    }

    /// Does the operation now or lets it wait.
    fn submit(state: &mut State, op: DiskResult<Op>) -> Poll<DiskResult<()>> {
        if !state.is_on() {
            return Poll::Pending;
        }
        let op = match op {
            Ok(op) => op,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if state.draw_ready() {
            return state.perform(&op).map_or(Poll::Pending, Poll::Ready);
        }
        state.queue.push(op);
        Poll::Pending
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("SimDisk")
            .field("ops", &state.ops)
            .field("waiting", &state.queue.len())
            .field("on", &state.is_on())
            .finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> DiskResult<()> {
        check_dir_path(path)?;
        lock(&self.state).change(path, |state| state.create_dir_all(path))
    }

    fn list(&self, path: &Path) -> DiskResult<Vec<DirEntry>> {
        check_dir_path(path)?;
        let state = lock(&self.state);
        state.check_power(path)?;
        state.list(path)
    }

    fn remove_file(&self, path: &Path) -> DiskResult<()> {
        check_file_path(path)?;
        lock(&self.state).change(path, |state| state.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> DiskResult<()> {
        check_file_path(path)?;
        lock(&self.state).change(path, |state| state.remove_dir_all(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()> {
        check_file_path(from)?;
        check_file_path(to)?;
        lock(&self.state).change(from, |state| state.rename(from, to))
    }

    fn sync_dir(&self, path: &Path) -> DiskResult<()> {
        check_dir_path(path)?;
        lock(&self.state).change(path, |state| state.sync_dir(path))
    }

    fn open(
        &self,
        path: &Path,
        mode: OpenMode,
        completions: Arc<dyn Completions>,
    ) -> DiskResult<FileId> {
        check_file_path(path)?;
        lock(&self.state).open(path, mode, completions)
    }

    fn close(&self, file: FileId) {
        lock(&self.state).close(file);
    }

    fn len(&self, file: FileId) -> DiskResult<u64> {
        let state = lock(&self.state);
        state.check_power(Path::new(""))?;
        Ok(state.inode(file)?.len())
    }

    fn set_len(&self, file: FileId, len: u64) -> DiskResult<()> {
        lock(&self.state).change(Path::new(""), |state| state.set_len(file, len))
    }

    fn preallocate(&self, file: FileId, len: u64) -> DiskResult<()> {
        lock(&self.state).change(Path::new(""), |state| state.preallocate(file, len))
    }

    fn read_at(&self, file: FileId, position: u64, len: usize) -> DiskResult<Bytes> {
        let state = lock(&self.state);
        state.check_power(Path::new(""))?;
        Ok(state.inode(file)?.read(position, len))
    }

    fn submit_write(
        &self,
        file: FileId,
        position: u64,
        data: &[Bytes],
        token: OpToken,
    ) -> Poll<DiskResult<()>> {
        let mut state = lock(&self.state);
        let op = state.new_write(file, position, data, token);
        Self::submit(&mut state, op)
    }

    fn submit_sync(&self, file: FileId, token: OpToken) -> Poll<DiskResult<()>> {
        let mut state = lock(&self.state);
        let op = state.new_sync(file, token);
        Self::submit(&mut state, op)
    }
}

#[cfg(test)]
mod tests;
