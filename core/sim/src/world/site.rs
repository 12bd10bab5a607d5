//! One partition in the world: its settings, its life on the broker, and who uses it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_env::disk::{Completions, Disk, DiskResult, FileId, OpToken};
use millstream_env::rng::Rng;
use millstream_log::{Context, LogConfig, LogError, LogShared};
use millstream_partition::{Partition, PartitionConfig, RecoverError, TimestampPolicy};
use millstream_replica::{Durability, ReplicaConfig};
use millstream_types::limits::BATCH_BYTES_DEFAULT;
use millstream_types::{
    BrokerId, LeaderEpoch, PartitionIndex, ProducerId, TimestampMs, TopicId, TopicPartition,
};

use super::Sabotage;
use crate::consumer::Consumer;
use crate::invariants::{Checked, positions, progress, watermark};
use crate::ledger::Ledger;
use crate::producer::Producer;
use crate::profile::Profile;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const IDEMPOTENT_PRODUCERS: i64 = 3;
const CONSUMERS: usize = 2;
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

pub(super) struct Site {
    pub(super) index: usize,
    pub(super) id: TopicPartition,
    pub(super) config: PartitionConfig,
    /// `None` while the broker is down, or for a log that was damaged and cannot be opened.
    pub(super) partition: Option<Partition>,
    mailbox: Arc<Mailbox>,
    /// Why its log takes nothing more, if it does not.
    pub(super) failed: Option<LogError>,
    /// Whether damage was reported: from then on it need not serve what lies at or after it.
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
                damaged: false,
                ledger: Ledger::default(),
                producers,
                consumers: (0..CONSUMERS).map(|_| Consumer::new()).collect(),
            });
        }
        sites
    }

    pub(super) fn durability(&self) -> Durability {
        self.config.replica.durability
    }

    /// Opens the partition and takes up its leadership, as the broker does.
    pub(super) fn open(
        &mut self,
        disk: Arc<dyn Disk>,
        shared: Arc<LogShared>,
        now: TimestampMs,
        epoch: LeaderEpoch,
    ) -> Result<(), RecoverError> {
        self.mailbox = Arc::default();
        let context = Context {
            disk,
            dir: PathBuf::from(format!("topics/{}/{}", self.id.topic, self.id.partition)),
            identity: self.id,
            config: self.config.log,
            completions: Arc::clone(&self.mailbox) as _,
            shared,
        };
        let mut partition = Partition::open(context, self.config, now)?;
        partition.lead(now, epoch);
        self.partition = Some(partition);
        Ok(())
    }

    /// The process is gone.
    pub(super) fn stop(&mut self) {
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
        if self.config.log.retention_ms.is_none() && now.start > millstream_types::Offset::ZERO {
            return progress::stuck(format!(
                "nothing may be removed, yet it starts at {}",
                now.start
            ));
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
        archived: false,
        producer_expiration_ms: if forgets { 0 } else { DAY_MS * 10 },
    }
}
