//! One replica's positions and the steps that move them.

use std::collections::{BTreeMap, BTreeSet};

use millstream_types::{
    BrokerId, ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs,
};
use millstream_wire::batch::BatchHeader;

use crate::producers::{ProducerTable, Recognised};

/// When a record counts as kept by a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Once the replica's disk has synced it.
    #[default]
    Fsync,
    /// Once the replica has written it; a power cut on every replica at once can lose it.
    Replicated,
}

/// What a replica is told of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// The broker that runs this replica.
    pub broker: BrokerId,
    /// When a record counts as kept.
    pub durability: Durability,
    /// The fewest members the in-sync set may have for the high watermark to move.
    pub min_in_sync: usize,
}

/// Where a replica stands. Always `start <= high_watermark <= written <= end`, `durable <=
/// written`, and on fsync topics `high_watermark <= durable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions {
    /// The first offset still kept.
    pub start: Offset,
    /// What is committed: consumers see nothing from here on.
    pub high_watermark: Offset,
    /// What the disk has synced.
    pub durable: Offset,
    /// What the disk has written.
    pub written: Offset,
    /// Where the next batch goes.
    pub end: Offset,
}

impl Positions {
    /// The first broken link of the chain, if any.
    #[must_use]
    pub fn check(&self, durability: Durability) -> Option<&'static str> {
        let kept = match durability {
            Durability::Fsync => self.durable,
            Durability::Replicated => self.written,
        };
        let chain = [
            ("start <= high watermark", self.start <= self.high_watermark),
            ("high watermark <= kept", self.high_watermark <= kept),
            ("durable <= written", self.durable <= self.written),
            ("written <= end", self.written <= self.end),
        ];
        chain.iter().find(|(_, holds)| !holds).map(|(link, _)| *link)
    }
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// The metadata quorum made this replica the leader.
    Lead {
        /// The new leadership's epoch.
        epoch: LeaderEpoch,
    },
    /// A batch is in the log, at the place that [`Replica::admit`] gave it.
    Stored {
        /// The header with its final base offset.
        header: &'a BatchHeader,
    },
    /// The disk has written everything before `end`.
    Written {
        /// Exclusive.
        end: Offset,
    },
    /// The disk has synced everything before `end`.
    Synced {
        /// Exclusive.
        end: Offset,
    },
    /// Retention removed everything before `start`.
    Trimmed {
        /// The first offset kept.
        start: Offset,
    },
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Sync the log: the high watermark waits for it.
    Sync,
    /// The high watermark moved.
    Commit {
        /// Exclusive.
        high_watermark: Offset,
    },
}

/// What is to be done with a batch that a producer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Give the batch this place, append it, then report [`Input::Stored`].
    Place {
        /// The offset of its first record.
        base_offset: Offset,
        /// The epoch to write into it.
        epoch: LeaderEpoch,
    },
    /// The batch is in the log already: answer with its place once that is committed.
    Duplicate {
        /// The offset of its first record.
        base_offset: Offset,
        /// The offset after its last record.
        next_offset: Offset,
    },
}

/// Why a batch is not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This replica does not lead.
    #[error("this broker does not lead the partition")]
    NotLeader,
    /// The in-sync set is smaller than the topic asks for.
    #[error("{in_sync} replicas are in sync and min.insync.replicas is {required}")]
    NotEnoughReplicas {
        /// Members of the set.
        in_sync: usize,
        /// What the topic asks for.
        required: usize,
    },
    /// The partition does not know the producer, and the batch is not its first.
    #[error("producer {producer} is not known here and its batch does not begin at sequence 0")]
    UnknownProducer {
        /// The producer.
        producer: ProducerId,
    },
    /// A later incarnation of the producer wrote here.
    #[error("producer {producer} of epoch {epoch} is fenced by epoch {current}")]
    FencedProducer {
        /// The producer.
        producer: ProducerId,
        /// The batch's epoch.
        epoch: ProducerEpoch,
        /// The latest epoch seen.
        current: ProducerEpoch,
    },
    /// The batch skips its producer's earlier ones, or repeats one too old to recognise.
    #[error("producer {producer} sent sequence {found} where {expected} comes next")]
    OutOfOrderSequence {
        /// The producer.
        producer: ProducerId,
        /// The sequence that comes next.
        expected: i32,
        /// The batch's sequence.
        found: i32,
    },
    /// No offset is left.
    #[error("the partition has run out of offsets")]
    OffsetsExhausted,
}

impl Refusal {
    /// The code that the producer gets.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotLeader => ErrorCode::NotLeader,
            Self::NotEnoughReplicas { .. } => ErrorCode::NotEnoughReplicas,
            Self::UnknownProducer { .. } => ErrorCode::UnknownProducer,
            Self::FencedProducer { .. } => ErrorCode::FencedProducer,
            Self::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequence,
            Self::OffsetsExhausted => ErrorCode::LimitExceeded,
        }
    }
}

/// One partition's replica on one broker.
#[derive(Debug)]
pub struct Replica {
    config: ReplicaConfig,
    /// What everything committed so far is kept by; see [`Replica::configure`].
    durability: Durability,
    leading: Option<LeaderEpoch>,
    /// What each member of the in-sync set has kept; the local broker is always one of them.
    kept: BTreeMap<BrokerId, Offset>,
    in_sync: BTreeSet<BrokerId>,
    positions: Positions,
    producers: ProducerTable,
}

impl Replica {
    /// A replica over a recovered log. It leads nothing yet, and so commits nothing: whatever
    /// high watermark `recovered` has is ignored.
    #[must_use]
    pub fn new(config: ReplicaConfig, recovered: Positions, producers: ProducerTable) -> Self {
        let positions = Positions { high_watermark: recovered.start, ..recovered };
        Self {
            config,
            durability: config.durability,
            leading: None,
            kept: BTreeMap::new(),
            in_sync: BTreeSet::from([config.broker]),
            positions,
            producers,
        }
    }

    /// Where the replica stands.
    #[must_use]
    pub const fn positions(&self) -> Positions {
        self.positions
    }

    /// The epoch of the current leadership, if this replica leads.
    #[must_use]
    pub const fn leading(&self) -> Option<LeaderEpoch> {
        self.leading
    }

    /// The producers of the log, for the snapshot that a sealed segment carries.
    #[must_use]
    pub const fn producers(&self) -> &ProducerTable {
        &self.producers
    }

    /// Forgets producers idle since before `before`.
    pub fn expire_producers(&mut self, before: TimestampMs) {
        self.producers.expire(before);
    }

    /// Takes up a changed config. On a topic that turns to fsync, nothing is committed from here on
    /// before it is durable: the high watermark waits until what it has passed already is, and the
    /// owner has to sync for that.
    pub fn configure(&mut self, config: ReplicaConfig) {
        self.config = config;
        self.settle_durability();
    }

    /// Whether what is committed is not yet as durable as the config asks.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.durability != self.config.durability
    }

    fn settle_durability(&mut self) {
        let behind = self.positions.durable < self.positions.high_watermark;
        if !(self.config.durability == Durability::Fsync && behind) {
            self.durability = self.config.durability;
        }
    }

    /// Says where a batch goes, or that it is there already. Changes nothing: the batch has its
    /// place once [`Input::Stored`] reports it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&self, header: &BatchHeader) -> Result<Admission, Refusal> {
        let epoch = self.leading.ok_or(Refusal::NotLeader)?;
        if self.in_sync.len() < self.config.min_in_sync {
            return Err(Refusal::NotEnoughReplicas {
                in_sync: self.in_sync.len(),
                required: self.config.min_in_sync,
            });
        }
        let base_offset = self.positions.end;
        if base_offset.plus(u64::from(header.last_offset_delta) + 1) == Offset::MAX {
            return Err(Refusal::OffsetsExhausted);
        }
        Ok(match self.producers.admit(header)? {
            Recognised::New => Admission::Place { base_offset, epoch },
            Recognised::Before { base_offset, next_offset } => {
                Admission::Duplicate { base_offset, next_offset }
            }
        })
    }

    /// Takes an input at `now` and appends what is to be done to `actions`.
    pub fn step(&mut self, now: TimestampMs, input: Input<'_>, actions: &mut Vec<Action>) {
        match input {
            Input::Lead { epoch } => {
                self.leading = Some(epoch);
                self.advance(actions);
            }
            Input::Stored { header } => {
                self.producers.stored(header, now);
                self.positions.end = header.next_offset();
                if self.config.durability == Durability::Fsync {
                    actions.push(Action::Sync);
                }
            }
            Input::Written { end } => {
                self.positions.written = self.positions.written.max(end);
                self.advance(actions);
            }
            Input::Synced { end } => {
                self.positions.durable = self.positions.durable.max(end);
                self.settle_durability();
                self.advance(actions);
            }
            Input::Trimmed { start } => self.positions.start = self.positions.start.max(start),
        }
        debug_assert_eq!(self.positions.check(self.durability), None);
    }

    /// Moves the high watermark to the lowest end that every member of the in-sync set has kept.
    fn advance(&mut self, actions: &mut Vec<Action>) {
        let local = match self.config.durability {
            Durability::Fsync => self.positions.durable,
            Durability::Replicated => self.positions.written,
        };
        self.kept.insert(self.config.broker, local);
        if self.leading.is_none() || self.in_sync.len() < self.config.min_in_sync {
            return;
        }
        let kept = self.in_sync.iter().map(|member| self.kept.get(member).copied());
        let lowest = kept.map(Option::unwrap_or_default).min().unwrap_or_default();
        if lowest > self.positions.high_watermark {
            self.positions.high_watermark = lowest;
            actions.push(Action::Commit { high_watermark: lowest });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::header;

    fn config(durability: Durability) -> ReplicaConfig {
        ReplicaConfig { broker: BrokerId(1), durability, min_in_sync: 1 }
    }

    fn leader(durability: Durability) -> Replica {
        let mut replica =
            Replica::new(config(durability), Positions::default(), ProducerTable::default());
        assert!(step(&mut replica, Input::Lead { epoch: LeaderEpoch(4) }).is_empty());
        replica
    }

    fn step(replica: &mut Replica, input: Input<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        replica.step(TimestampMs(1), input, &mut actions);
        actions
    }

    #[test]
    fn a_batch_is_placed_then_synced_then_committed() {
        let mut replica = leader(Durability::Fsync);
        let batch = header(Offset::ZERO, 10, 7, 0, 0);
        let end = Offset::ZERO.plus(10);
        let place = Admission::Place { base_offset: Offset::ZERO, epoch: LeaderEpoch(4) };
        assert_eq!(replica.admit(&batch), Ok(place));
        assert_eq!(step(&mut replica, Input::Stored { header: &batch }), [Action::Sync]);
        assert_eq!(step(&mut replica, Input::Written { end }), []);
        let commit = Action::Commit { high_watermark: end };
        assert_eq!(step(&mut replica, Input::Synced { end }), [commit]);
    }

    #[test]
    fn a_replicated_topic_commits_what_is_written() {
        let mut replica = leader(Durability::Replicated);
        let batch = header(Offset::ZERO, 10, 7, 0, 0);
        let end = Offset::ZERO.plus(10);
        assert_eq!(step(&mut replica, Input::Stored { header: &batch }), []);
        let commit = Action::Commit { high_watermark: end };
        assert_eq!(step(&mut replica, Input::Written { end }), [commit]);
    }

    #[test]
    fn a_replica_that_does_not_lead_appends_and_commits_nothing() {
        let end = Offset::ZERO.plus(5);
        let recovered = Positions { durable: end, written: end, end, ..Positions::default() };
        let mut replica =
            Replica::new(config(Durability::Fsync), recovered, ProducerTable::default());
        let batch = header(Offset::ZERO, 10, 7, 0, 0);
        assert_eq!(replica.admit(&batch), Err(Refusal::NotLeader));
        assert_eq!(replica.positions().high_watermark, Offset::ZERO);
        let commit = Action::Commit { high_watermark: end };
        assert_eq!(step(&mut replica, Input::Lead { epoch: LeaderEpoch(1) }), [commit]);
    }

    #[test]
    fn too_small_an_in_sync_set_takes_nothing() {
        let mut replica = leader(Durability::Fsync);
        replica.configure(ReplicaConfig { min_in_sync: 2, ..config(Durability::Fsync) });
        let batch = header(Offset::ZERO, 10, -1, -1, -1);
        let refused = Refusal::NotEnoughReplicas { in_sync: 1, required: 2 };
        assert_eq!(replica.admit(&batch), Err(refused));
    }

    #[test]
    fn a_topic_turned_to_fsync_commits_nothing_before_it_is_durable() {
        let mut replica = leader(Durability::Replicated);
        let batch = header(Offset::ZERO, 10, -1, -1, -1);
        let (ten, twenty) = (Offset::ZERO.plus(10), Offset::ZERO.plus(20));
        step(&mut replica, Input::Stored { header: &batch });
        step(&mut replica, Input::Written { end: ten });
        replica.configure(config(Durability::Fsync));
        assert!(replica.is_settling());
        assert_eq!(step(&mut replica, Input::Synced { end: ten }), []);
        assert!(!replica.is_settling());
        let next = header(ten, 10, -1, -1, -1);
        step(&mut replica, Input::Stored { header: &next });
        assert_eq!(step(&mut replica, Input::Written { end: twenty }), []);
        let commit = Action::Commit { high_watermark: twenty };
        assert_eq!(step(&mut replica, Input::Synced { end: twenty }), [commit]);
    }

    /// Under load each sync finds that more was written meanwhile.
    #[test]
    fn a_topic_turned_to_fsync_under_load_is_held_to_it_at_once() {
        let mut replica = leader(Durability::Replicated);
        let at = |count: u64| Offset::ZERO.plus(count * 10);
        let append = |replica: &mut Replica, count: u64| {
            let batch = header(at(count), 10, -1, -1, -1);
            step(replica, Input::Stored { header: &batch });
            step(replica, Input::Written { end: at(count + 1) })
        };
        for count in 0..3 {
            let committed = Action::Commit { high_watermark: at(count + 1) };
            assert_eq!(append(&mut replica, count), [committed]);
        }
        replica.configure(config(Durability::Fsync));
        // Always two batches behind what is written; the first three are committed already.
        for count in 3..10 {
            assert_eq!(append(&mut replica, count), [], "before batch {count} is durable");
            let durable = at(count - 1);
            let synced = step(&mut replica, Input::Synced { end: durable });
            let news = (durable > at(3)).then_some(Action::Commit { high_watermark: durable });
            assert_eq!(synced, Vec::from_iter(news));
        }
        assert!(!replica.is_settling());
    }

    #[test]
    fn a_duplicate_is_answered_with_its_first_place() {
        let mut replica = leader(Durability::Fsync);
        let batch = header(Offset::ZERO, 10, 7, 0, 0);
        step(&mut replica, Input::Stored { header: &batch });
        let answer =
            Admission::Duplicate { base_offset: Offset::ZERO, next_offset: Offset::ZERO.plus(10) };
        assert_eq!(replica.admit(&batch), Ok(answer));
    }

    /// What may happen next; numbers are parts of what there is, each of 256.
    #[derive(Debug, Clone)]
    enum Event {
        Append { producer: i64, records: u32, sequence: i32 },
        Write(u8),
        Sync(u8),
        Trim(u8),
        Lead,
        Require(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        let append = (-1..3i64, 1..6u32, 0..6i32).prop_map(|(producer, records, sequence)| {
            Event::Append { producer, records, sequence }
        });
        prop_oneof![
            4 => append,
            3 => any::<u8>().prop_map(Event::Write),
            3 => any::<u8>().prop_map(Event::Sync),
            1 => any::<u8>().prop_map(Event::Trim),
            1 => Just(Event::Lead),
            1 => (1..3usize).prop_map(Event::Require),
        ]
    }

    fn part(from: Offset, to: Offset, of_256: u8) -> Offset {
        from.plus(to.since(from) * (u64::from(of_256) + 1) / 256)
    }

    proptest! {
        #[test]
        fn positions_stand_in_order_and_commits_only_rise(
            events in proptest::collection::vec(event(), 1..200),
            fsync: bool,
        ) {
            let durability = if fsync { Durability::Fsync } else { Durability::Replicated };
            let producers = ProducerTable::default();
            let mut replica = Replica::new(config(durability), Positions::default(), producers);
            for (epoch, event) in (0..).zip(events) {
                let before = replica.positions();
                let actions = match event {
                    Event::Append { producer, records, sequence } => {
                        let header = header(before.end, records, producer, 0, sequence);
                        match replica.admit(&header) {
                            Ok(Admission::Place { base_offset, .. }) => {
                                prop_assert_eq!(base_offset, before.end);
                                step(&mut replica, Input::Stored { header: &header })
                            }
                            Ok(Admission::Duplicate { next_offset, .. }) => {
                                prop_assert!(next_offset <= before.end);
                                Vec::new()
                            }
                            Err(_) => Vec::new(),
                        }
                    }
                    Event::Write(of_256) => {
                        let end = part(before.written, before.end, of_256);
                        step(&mut replica, Input::Written { end })
                    }
                    Event::Sync(of_256) => {
                        let end = part(before.durable, before.written, of_256);
                        step(&mut replica, Input::Synced { end })
                    }
                    Event::Trim(of_256) => {
                        let start = part(before.start, before.high_watermark, of_256);
                        step(&mut replica, Input::Trimmed { start })
                    }
                    Event::Lead => step(&mut replica, Input::Lead { epoch: LeaderEpoch(epoch) }),
                    Event::Require(min_in_sync) => {
                        replica.configure(ReplicaConfig { min_in_sync, ..config(durability) });
                        Vec::new()
                    }
                };
                let now = replica.positions();
                prop_assert_eq!(now.check(durability), None);
                prop_assert!(now.high_watermark >= before.high_watermark);
                let commit = Action::Commit { high_watermark: now.high_watermark };
                let moved = now.high_watermark > before.high_watermark;
                prop_assert_eq!(actions.contains(&commit), moved);
                let is_commit = |action: &&Action| matches!(action, Action::Commit { .. });
                prop_assert!(actions.iter().filter(is_commit).count() <= 1);
            }
        }
    }
}
