//! One partition in the world: its settings, its life on the broker, and who uses it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_env::disk::{Completions, Disk, DiskResult, FileId, OpToken};
use millstream_env::rng::Rng;
use millstream_log::{Beginning, Begins, Context, LogConfig, LogError, LogShared, PartitionLog};
use millstream_partition::{Partition, PartitionConfig, RangeState, RecoverError, TimestampPolicy};
use millstream_replica::{Durability, ReplicaConfig};
use millstream_types::limits::BATCH_BYTES_DEFAULT;
use millstream_types::{
    BrokerId, LeaderEpoch, Offset, PartitionIndex, ProducerId, TimestampMs, TopicId, TopicPartition,
};

use super::Sabotage;
use super::life::Loss;
use super::offload::Upload;
use super::tidy::Keeps;
use crate::archive::{Archive, Head};
use crate::consumer::Consumer;
use crate::invariants::{Checked, archive_holds, positions, progress, watermark};
use crate::ledger::Ledger;
use crate::producer::Producer;
use crate::profile::Profile;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const IDEMPOTENT_PRODUCERS: i64 = 3;
const CONSUMERS: usize = 2;
const LATE_UPLOADS_MAX: usize = 2;
/// The topics of the world, a partition each.
const TOPICS: [Durability; 3] = [Durability::Fsync, Durability::Replicated, Durability::Fsync];

/// Completions that wait until the world hands them over.
#[derive(Debug, Default)]
pub(super) struct Mailbox(Mutex<VecDeque<(FileId, OpToken, DiskResult<()>)>>);

impl Completions for Mailbox {
    fn complete(&self, file: FileId, token: OpToken, result: DiskResult<()>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((file, token, result));
    }
}

impl Mailbox {
    fn take(&self) -> Option<(FileId, OpToken, DiskResult<()>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// How a partition was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// From its log alone.
    Log,
    /// From what a range's end says.
    Begun,
    /// Not yet: the store is away.
    Waits,
}

pub(super) struct Site {
    pub(super) index: usize,
    pub(super) id: TopicPartition,
    pub(super) config: PartitionConfig,
    /// `None` while the broker is down, or for a log that was damaged and cannot be opened.
    pub(super) partition: Option<Partition>,
    mailbox: Arc<Mailbox>,
    /// Why its log takes nothing more, if it does not.
    pub(super) failed: Option<LogError>,
    /// Whether it waits for the store to say where its log begins.
    pub(super) waits: bool,
    /// What the ends of its lives may have taken that it has not come back from yet.
    pub(super) loss: Option<Loss>,
    /// The leader epoch of this life of the process.
    pub(super) epoch: i32,
    /// Its part of the store.
    pub(super) archive: Archive,
    /// What the archive's retention keeps.
    pub(super) keeps: Keeps,
    /// The objects given up that this life of the process has seen in the store, and when.
    pub(super) noticed: BTreeMap<u64, TimestampMs>,
    /// How far it is archived, by the cluster's metadata.
    pub(super) head: Option<Head>,
    /// The newest manifest that this life of the process has seen, once it has looked.
    pub(super) seen: Option<Option<Head>>,
    /// The range on its way into the archive.
    pub(super) upload: Option<Upload>,
    /// Requests of processes that are gone, still on their way to the store.
    pub(super) late: Vec<Upload>,
    /// Whether an opening reported damage. It is out of service from then on: were it opened again,
    /// another bit could have taken the mark that tells this damage from a torn tail.
    pub(super) damaged: bool,
    pub(super) ledger: Ledger,
    pub(super) producers: Vec<Producer>,
    pub(super) consumers: Vec<Consumer>,
}

impl Site {
    /// Every partition of the world, with nothing in it.
    pub(super) fn all(rng: &mut Rng, profile: &Profile, sabotage: Option<Sabotage>) -> Vec<Self> {
        let mut sites = Vec::new();
        for (index, durability) in TOPICS.into_iter().enumerate() {
            let config = config(rng, profile, durability, sabotage);
            let mut producers = vec![Producer::new(format!("{index}/plain"), None)];
            for id in 0..IDEMPOTENT_PRODUCERS {
                producers.push(Producer::new(format!("{index}/{id}"), Some(ProducerId(id))));
            }
            let number = u8::try_from(index).unwrap_or(u8::MAX);
            sites.push(Self {
                index,
                id: TopicPartition {
                    topic: TopicId::from_bytes([number + 1; 16]),
                    partition: PartitionIndex(0),
                },
                config,
                partition: None,
                mailbox: Arc::default(),
                failed: None,
                waits: false,
                loss: None,
                epoch: 0,
                archive: Archive::default(),
                keeps: Keeps::draw(rng, profile),
                noticed: BTreeMap::new(),
                head: None,
                seen: None,
                upload: None,
                late: Vec::new(),
                damaged: false,
                ledger: Ledger { archived: profile.archived, ..Ledger::default() },
                producers,
                consumers: (0..CONSUMERS).map(|_| Consumer::new()).collect(),
            });
        }
        sites
    }

    pub(super) fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch)
    }

    pub(super) fn durability(&self) -> Durability {
        self.config.replica.durability
    }

    /// Opens the partition and takes up its leadership: one that goes on where its archive ends,
    /// from what the store says there, if that is not `away`.
    pub(super) fn open(
        &mut self,
        disk: Arc<dyn Disk>,
        shared: Arc<LogShared>,
        now: TimestampMs,
        away: bool,
    ) -> Result<Opening, RecoverError> {
        self.mailbox = Arc::default();
        self.waits = false;
        let context = self.context(disk, shared);
        let begins = match self.head {
            Some(_) => PartitionLog::begins(&context)?,
            None => Begins::Known,
        };
        let at = match begins {
            Begins::Known => None,
            Begins::Nowhere => self.archive.head().map(|head| head.end),
            Begins::Unknown(at) => Some(at),
        };
        if at.is_some() && away {
            self.waits = true;
            return Ok(Opening::Waits);
        }
        let beginning = at.and_then(|at| self.beginning(at));
        let mut partition = Partition::open_at(context, self.config, beginning.as_ref(), now)?;
        partition.lead(now, LeaderEpoch(self.epoch));
        if let Some(head) = self.head {
            partition.set_archive(head.start..head.end);
        }
        self.partition = Some(partition);
        Ok(if beginning.is_some() { Opening::Begun } else { Opening::Log })
    }

    /// What the store says of the range that ends at `at`.
    fn beginning(&self, at: Offset) -> Option<Beginning> {
        if self.archive.head().is_some_and(|head| head.start == at && head.end == at) {
            // Retention gave up every range, and what they knew: the producers begin anew.
            return RangeState::default().beginning(at);
        }
        let range = self.archive.range_ending(at)?;
        RangeState::resume(&range.epochs, &range.producers).ok()?.beginning(at)
    }

    fn context(&self, disk: Arc<dyn Disk>, shared: Arc<LogShared>) -> Context {
        Context {
            disk,
            dir: PathBuf::from(format!("topics/{}/{}", self.id.topic, self.id.partition)),
            identity: self.id,
            config: self.config.log,
            completions: Arc::clone(&self.mailbox) as _,
            shared,
        }
    }

    /// The process is gone; what it asked of the store may still be on its way.
    pub(super) fn stop(&mut self, rng: &mut Rng) {
        if let Some(upload) = self.upload.take()
            && self.late.len() < LATE_UPLOADS_MAX
            && rng.chance(50)
        {
            self.late.push(upload);
        }
        self.seen = None;
        self.noticed.clear();
        self.waits = false;
        if let Some(partition) = self.partition.take() {
            self.ledger.observe(&partition);
        }
        self.failed = None;
        self.producers.iter_mut().for_each(Producer::disconnect);
        self.consumers.iter_mut().for_each(Consumer::disconnect);
    }

    /// Hands the partition the completions that wait for it.
    pub(super) fn take_completions(&mut self, now: TimestampMs) {
        while let Some((file, token, result)) = self.mailbox.take() {
            let Some(partition) = &mut self.partition else { continue };
            if let Err(error) = partition.complete(now, file, token, result) {
                self.failed.get_or_insert(error);
            }
        }
    }

    /// Whether completions wait.
    pub(super) fn has_completions(&self) -> bool {
        !self.mailbox.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What must hold after every step; notes how far the partition has come.
    pub(super) fn check(&mut self) -> Checked {
        let Some(partition) = &self.partition else { return Ok(()) };
        positions::check(partition, self.durability(), self.failed.is_some())?;
        let now = partition.positions();
        watermark::check(&self.ledger, now.high_watermark, partition.log().start())?;
        if self.config.log.retention_ms.is_none() && now.start > Offset::ZERO {
            return progress::stuck(format!(
                "nothing may be removed, yet it starts at {}",
                now.start
            ));
        }
        if self.config.archived {
            // A log that was just opened does not know yet that all of it is durable.
            let durable = self.ledger.durable.max(now.durable);
            archive_holds::standing(partition, self.head, &self.archive, durable)?;
        }
        self.ledger.high_watermark = now.high_watermark;
        self.ledger.observe(partition);
        Ok(())
    }
}

/// Settings under which segments of a few batches roll and go.
fn config(
    rng: &mut Rng,
    profile: &Profile,
    durability: Durability,
    sabotage: Option<Sabotage>,
) -> PartitionConfig {
    let forgets = sabotage == Some(Sabotage::ForgetProducers);
    let changes = sabotage == Some(Sabotage::ChangeBytes);
    PartitionConfig {
        log: LogConfig {
            segment_bytes: 1000 + rng.below(6000),
            segment_ms: 2000 + rng.below(20_000),
            index_interval_bytes: 256,
            retention_bytes: profile.retention.then(|| 4000 + rng.below(30_000)),
            retention_ms: profile.retention.then(|| 5000 + rng.below(100_000)),
            tail_bytes_max: rng.below(4000),
        },
        replica: ReplicaConfig { broker: BrokerId(1), durability, min_in_sync: 1 },
        timestamps: if changes {
            TimestampPolicy::LogAppendTime
        } else {
            TimestampPolicy::CreateTime { before_max_ms: DAY_MS * 10, after_max_ms: DAY_MS }
        },
        batch_bytes_max: BATCH_BYTES_DEFAULT,
        archived: profile.archived,
        producer_expiration_ms: if forgets { 0 } else { DAY_MS * 10 },
    }
}
