//! Brings topics back from the archive, whose owner this cluster is from then on.
//!
//! What the metadata would refuse is refused before anything is taken from another cluster. Then
//! the topic is made this cluster's, then each partition's archive, and last the topic is made in
//! the metadata: it is of use only once nobody else appends to what it goes on from. One of many
//! partitions is told to the metadata in parts, and made of them by the last command. Each step may
//! be repeated, so that a restore that died is finished by running it again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream_env::clock::Clock;
use millstream_meta::{
    ARCHIVE_HEADS_MAX, Command, CommandBody, CommandId, MetaState, RestoreName, RestoredPartition,
};
use millstream_quorum::check_size;
use millstream_replica::ProducerTable;
use millstream_service::ServiceError;
use millstream_tiered::{ArchivedPartition, ArchivedTopic, ConfigMap, RangeEnd, TopicError};
use millstream_types::{BrokerId, ErrorCode, LeaderEpoch, PartitionIndex, ProducerId, TopicId};
use millstream_wire::api::{RestoreTopicRequest, RestoreTopicResponse};
use tokio::sync::watch;

use super::requests::store_error;
use super::{Archives, service_error, to_meta};
use crate::admin::propose;
use crate::ids::Ids;
use crate::partitions::Partitions;
use crate::service::BrokerService;

type Outcome = Result<(), ServiceError>;

/// The restores that are under way, one a topic. Each goes on to its end whether or not whoever
/// asked still waits; who asks again meanwhile waits for the same.
#[derive(Debug, Default)]
pub(crate) struct Restores {
    running: Mutex<BTreeMap<TopicId, watch::Receiver<Option<Outcome>>>>,
    /// Of the restores in parts, whose turn it is: the metadata keeps one a broker.
    in_parts: tokio::sync::Mutex<()>,
}

impl Restores {
    /// Does `work`, unless the topic's is being done already, and waits for its outcome.
    async fn join(
        self: &Arc<Self>,
        topic: TopicId,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Outcome {
        let mut outcome = self.start(topic, work);
        let told = outcome.wait_for(Option::is_some).await;
        let told = told.ok().and_then(|told| told.clone());
        told.unwrap_or_else(|| {
            Err(ServiceError::new(ErrorCode::Internal, format!("restoring topic {topic} ended")))
        })
    }

    fn start(
        self: &Arc<Self>,
        topic: TopicId,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> watch::Receiver<Option<Outcome>> {
        let mut running = self.running();
        if let Some(outcome) = running.get(&topic) {
            return outcome.clone();
        }
        let (tell, outcome) = watch::channel(None);
        running.insert(topic, outcome.clone());
        let entry = Running { restores: Arc::clone(self), topic };
        tokio::spawn(async move {
            let outcome = work.await;
            // Whoever asks after this one has ended asks anew.
            drop(entry);
            tell.send_replace(Some(outcome));
        });
        outcome
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<TopicId, watch::Receiver<Option<Outcome>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A restore's entry, taken out however its task ends.
struct Running {
    restores: Arc<Restores>,
    topic: TopicId,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.restores.running().remove(&self.topic);
    }
}

impl BrokerService {
    /// Restores a topic. One that is there already stays as it is.
    pub(crate) async fn restore_topic(
        &self,
        request: RestoreTopicRequest,
    ) -> Result<RestoreTopicResponse, ServiceError> {
        let found = choose(self.archives.list().await?, &request)?;
        let topic = found.topic_id;
        if self.quorum.state().topic(topic).is_none() {
            let restore = Restore {
                found,
                command: request.command.0,
                broker: self.broker,
                restores: Arc::clone(&self.restores),
                archives: Arc::clone(&self.archives),
                partitions: Arc::clone(&self.partitions),
                clock: Arc::clone(&self.clock),
            };
            self.restores.join(topic, restore.run()).await?;
        }
        self.restored(topic).await
    }
}

/// One topic on its way back.
struct Restore {
    found: ArchivedTopic,
    command: [u8; 16],
    broker: BrokerId,
    restores: Arc<Restores>,
    archives: Arc<Archives>,
    partitions: Arc<Partitions>,
    clock: Arc<dyn Clock>,
}

impl Restore {
    async fn run(self) -> Outcome {
        let Self { found, archives, .. } = &self;
        let cluster = archives.cluster;
        let store = &archives.opened().await.map_err(|error| store_error(&error))?.store;
        let config = found.newest_config(store).await.map_err(|error| topic_error(&error))?;
        if let Some((_, config)) = config {
            self.check(&config)?;
        }
        let config = found.take_over(store, cluster).await;
        let config = config.map_err(|error| topic_error(&error))?;
        let settings = Settings::read(found, &config)?;
        let taken = found.take_over_partitions(store, cluster, settings.partitions, largest).await;
        let taken = taken.map_err(|error| service_error(&error))?;
        // Another cluster may have restored it at the same time.
        let owned = found.check_owner(store, cluster).await;
        owned.map_err(|error| topic_error(&error))?;
        let body = settings.restored(found, &taken, &archives.state())?;
        self.make(body).await?;
        self.partitions.reconcile(archives.state()).await;
        tracing::info!(topic = %found.topic, id = %found.topic_id, partitions = taken.len(),
            "a topic is restored, and its archive is this cluster's");
        Ok(())
    }

    /// Refuses what the metadata would refuse in the end.
    fn check(&self, config: &ConfigMap) -> Outcome {
        let state = self.archives.state();
        let ArchivedTopic { topic, topic_id, .. } = &self.found;
        if state.deleted_topics().any(|(deleted, _)| deleted == *topic_id) {
            let message = format!(
                "topic `{topic}` was deleted here and will be removed from the archive once \
                 archive.grace_ms have passed; until then another cluster can restore it"
            );
            return Err(ServiceError::new(ErrorCode::InvalidRequest, message));
        }
        let settings = Settings::read(&self.found, config)?;
        let body = settings.restored(&self.found, &BTreeMap::new(), &state)?;
        let checked = state.check_command(self.command(body)?);
        checked.map_err(|refused| ServiceError::new(refused.code(), refused.to_string()))
    }

    /// Makes the topic, of parts if one command does not hold it.
    async fn make(&self, body: CommandBody) -> Outcome {
        let quorum = &self.archives.quorum;
        let whole = self.command(body)?;
        if check_size(&whole).is_ok() {
            return propose(quorum, whole).await.map(drop);
        }
        let _turn = self.restores.in_parts.lock().await;
        let random = || Ids::random().map(|id| CommandId(u128::from_be_bytes(id)));
        let of = RestoreName { broker: self.broker, restore: random()? };
        let (parts, last) = in_parts(of, whole.body);
        for part in parts {
            propose(quorum, Command::new(random()?, self.clock.wall(), part)).await?;
        }
        propose(quorum, Command::new(whole.id, whole.at_ms, last)).await.map(drop)
    }

    fn command(&self, body: CommandBody) -> Result<Command, ServiceError> {
        let id = match u128::from_be_bytes(self.command) {
            0 => CommandId(u128::from_be_bytes(Ids::random()?)),
            id => CommandId(id),
        };
        Ok(Command::new(id, self.clock.wall(), body))
    }
}

/// The commands that tell of a topic's partitions, and the one that makes it of them.
fn in_parts(of: RestoreName, mut body: CommandBody) -> (Vec<CommandBody>, CommandBody) {
    let CommandBody::RestoreTopic { topic, partitions, parts, .. } = &mut body else {
        return (Vec::new(), body);
    };
    *parts = Some(of);
    let (topic, all) = (*topic, std::mem::take(partitions));
    let firsts = (0_u32..).step_by(ARCHIVE_HEADS_MAX);
    let told = all.chunks(ARCHIVE_HEADS_MAX).zip(firsts).map(|(partitions, first)| {
        let partitions = partitions.to_vec();
        CommandBody::RestorePartitions { of, topic, first, partitions }
    });
    (told.collect(), body)
}

fn topic_error(error: &TopicError) -> ServiceError {
    let code = match error {
        error if error.is_retriable() => ErrorCode::Unavailable,
        TopicError::Store(_) => ErrorCode::Unavailable,
        TopicError::Gone { .. } => ErrorCode::UnknownTopic,
        _ => ErrorCode::StorageFenced,
    };
    ServiceError::new(code, error.to_string())
}

/// The topic that is meant, if that is clear.
fn choose(
    all: Vec<ArchivedTopic>,
    request: &RestoreTopicRequest,
) -> Result<ArchivedTopic, ServiceError> {
    let mut named: Vec<ArchivedTopic> = all
        .into_iter()
        .filter(|found| found.topic == request.name)
        .filter(|found| request.topic.is_none_or(|id| found.topic_id == id))
        .collect();
    let message = match named.len() {
        1 => return Ok(named.remove(0)),
        0 => format!("the archive's store has no topic `{}`", request.name),
        count => {
            let ids: Vec<String> = named.iter().map(|found| found.topic_id.to_string()).collect();
            let name = &request.name;
            format!("the store has {count} topics `{name}`: name one by its id: {}", ids.join(", "))
        }
    };
    let code = if named.is_empty() { ErrorCode::UnknownTopic } else { ErrorCode::InvalidRequest };
    Err(ServiceError::new(code, message))
}

/// What a topic's archived config says.
struct Settings {
    partitions: u32,
    replication_factor: u16,
    configs: BTreeMap<String, String>,
}

impl Settings {
    fn read(found: &ArchivedTopic, config: &ConfigMap) -> Result<Self, ServiceError> {
        let number = |name| config.get(name).and_then(serde_json::Value::as_u64);
        let partitions = number("partitions").and_then(|count| u32::try_from(count).ok());
        let partitions = partitions.ok_or_else(|| broken(found, "no number of partitions"))?;
        // The topic may have grown after its config was last written.
        let last = found.partitions.last().map_or(0, |last| last.0.saturating_add(1));
        let factor = number("replication_factor").and_then(|factor| u16::try_from(factor).ok());
        let named = config.get("configs").and_then(serde_json::Value::as_object);
        let mut configs = BTreeMap::new();
        for (name, value) in named.ok_or_else(|| broken(found, "no configs"))? {
            let text = value.as_str().ok_or_else(|| broken(found, "a config that is no text"))?;
            configs.insert(name.clone(), text.to_owned());
        }
        Ok(Self {
            partitions: partitions.max(last),
            // One broker holds what one broker can.
            replication_factor: factor.unwrap_or(1),
            configs,
        })
    }

    /// The command that makes the topic again, of what is archived of its partitions.
    fn restored(
        &self,
        found: &ArchivedTopic,
        partitions: &BTreeMap<PartitionIndex, ArchivedPartition<Largest>>,
        state: &MetaState,
    ) -> Result<CommandBody, ServiceError> {
        let count = partitions.last_key_value().map_or(0, |(last, _)| last.0.saturating_add(1));
        let count = count.max(self.partitions);
        let restored = (0..count).map(|index| match partitions.get(&PartitionIndex(index)) {
            Some(partition) => RestoredPartition {
                leader_epoch: LeaderEpoch(partition.head.leader_epoch),
                head: Some(to_meta(&partition.head)),
            },
            None => RestoredPartition { leader_epoch: LeaderEpoch(0), head: None },
        });
        let (producers_from, other_producers) = producers(found, partitions, state)?;
        Ok(CommandBody::RestoreTopic {
            name: found.topic.clone(),
            topic: found.topic_id,
            replication_factor: self.replication_factor,
            configs: self.configs.clone(),
            partitions: restored.collect(),
            producers_from,
            other_producers,
            parts: None,
        })
    }
}

/// The largest producer id of each cluster that a partition knows: all that is kept of its end, of
/// which there may be a hundred thousand at once.
type Largest = Result<Vec<ProducerId>, String>;

#[expect(clippy::needless_pass_by_value, reason = "as it is handed over")]
fn largest(end: RangeEnd) -> Largest {
    if end.producers.is_empty() {
        return Ok(Vec::new());
    }
    let known = ProducerTable::from_snapshot(&end.producers).map_err(|error| error.to_string())?;
    let mut largest = BTreeMap::<u32, ProducerId>::new();
    for id in known.ids() {
        largest.entry(id.origin()).and_modify(|known| *known = id.max(*known)).or_insert(id);
    }
    Ok(largest.into_values().collect())
}

/// The number after the largest of this cluster's own ids among the topic's producers, and the
/// largest id of each other cluster among them.
fn producers(
    found: &ArchivedTopic,
    partitions: &BTreeMap<PartitionIndex, ArchivedPartition<Largest>>,
    state: &MetaState,
) -> Result<(ProducerId, Vec<ProducerId>), ServiceError> {
    let (mut own, mut others) = (0, BTreeMap::<u32, ProducerId>::new());
    for known in partitions.values().filter_map(|partition| partition.end.as_ref()) {
        for id in known.as_ref().map_err(|error| broken(found, error))? {
            if state.is_own_producer(*id) {
                own = own.max(id.number().saturating_add(1));
            } else {
                let largest = others.entry(id.origin()).or_insert(*id);
                *largest = (*id).max(*largest);
            }
        }
    }
    Ok((ProducerId(own), others.into_values().collect()))
}

fn broken(found: &ArchivedTopic, what: &str) -> ServiceError {
    let message = format!("what is archived of topic `{}`: {what}", found.topic);
    ServiceError::new(ErrorCode::Internal, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use millstream_tiered::Head;
    use millstream_types::{Digest, TimestampMs};
    use tokio::sync::Notify;

    use super::*;

    const TOPIC: TopicId = TopicId::from_bytes([1; 16]);
    const OTHER: TopicId = TopicId::from_bytes([2; 16]);

    /// Work that waits until it is let go on, and counts how often it was begun.
    #[derive(Default)]
    struct Work {
        begun: AtomicU32,
        go: Notify,
        ended: Notify,
    }

    impl Work {
        async fn run(self: Arc<Self>) -> Outcome {
            self.begun.fetch_add(1, Ordering::SeqCst);
            self.go.notified().await;
            self.ended.notify_one();
            Err(ServiceError::new(ErrorCode::Unavailable, "as it ended"))
        }
    }

    fn code(outcome: Outcome) -> ErrorCode {
        outcome.map_or_else(|error| error.code, |()| ErrorCode::None)
    }

    /// The command for a topic whose partitions' heads take as much room as any can.
    fn widest(partitions: u32) -> CommandBody {
        let head = Head {
            number: u64::MAX,
            digest: Digest::from_bytes([0xff; 32]),
            start: i64::MAX - 1,
            end: i64::MAX - 1,
            leader_epoch: i32::MAX,
        };
        let widest = |index| (PartitionIndex(index), ArchivedPartition { head, end: None });
        let settings = Settings { partitions, replication_factor: 1, configs: BTreeMap::new() };
        let found = ArchivedTopic::new("orders".to_owned(), TOPIC);
        let heads = (0..partitions).map(widest).collect();
        settings.restored(&found, &heads, &MetaState::default()).unwrap()
    }

    #[test]
    fn a_thousand_partitions_are_one_command_and_more_are_parts_that_fit() {
        let of = RestoreName { broker: BrokerId(u32::MAX), restore: CommandId(u128::MAX) };
        let fits = |body: &CommandBody| {
            let (id, at) = (CommandId(u128::MAX), TimestampMs(i64::MAX));
            check_size(&Command::new(id, at, body.clone())).is_ok()
        };
        assert!(fits(&widest(1_000)));
        let whole = widest(3_001);
        assert!(!fits(&whole));
        let CommandBody::RestoreTopic { partitions: all, .. } = whole.clone() else {
            panic!("another")
        };
        assert!(all[0].head.unwrap().end.value() > i64::MAX / 2, "the largest offset is one");
        let (parts, last) = in_parts(of, whole);
        assert!(fits(&last) && parts.iter().all(fits));
        let mut told = Vec::new();
        for part in parts {
            let CommandBody::RestorePartitions { first, partitions, .. } = part else {
                panic!("another")
            };
            assert_eq!(usize::try_from(first).unwrap(), told.len());
            told.extend(partitions);
        }
        assert_eq!(told, all);
        let CommandBody::RestoreTopic { partitions, parts, .. } = last else { panic!("another") };
        assert_eq!((partitions.len(), parts), (0, Some(of)));
    }

    #[tokio::test]
    async fn who_asks_meanwhile_waits_for_the_same() {
        let (restores, work) = (Arc::new(Restores::default()), Arc::new(Work::default()));
        let join = || restores.join(TOPIC, Arc::clone(&work).run());
        let other = restores.join(OTHER, async { Ok(()) });
        let let_go = async {
            assert_eq!(code(other.await), ErrorCode::None, "another topic waits for nobody");
            work.go.notify_one();
        };
        let (one, two, ()) = tokio::join!(join(), join(), let_go);
        assert_eq!([one, two].map(code), [ErrorCode::Unavailable; 2]);
        assert_eq!(work.begun.load(Ordering::SeqCst), 1);
        work.go.notify_one();
        assert_eq!(code(join().await), ErrorCode::Unavailable);
        assert_eq!(work.begun.load(Ordering::SeqCst), 2, "what ended is begun anew");
    }

    #[tokio::test]
    async fn a_restore_ends_though_nobody_waits_for_it() {
        let (restores, work) = (Arc::new(Restores::default()), Arc::new(Work::default()));
        let asked = restores.join(TOPIC, Arc::clone(&work).run());
        let gave_up = tokio::time::timeout(Duration::from_millis(10), asked).await;
        assert!(gave_up.is_err());
        work.go.notify_one();
        work.ended.notified().await;
        while !restores.running().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_that_panics_can_be_run_again() {
        let restores = Arc::new(Restores::default());
        let panicked = restores.join(TOPIC, async { panic!("on purpose") }).await;
        assert_eq!(code(panicked), ErrorCode::Internal);
        assert_eq!(code(restores.join(TOPIC, async { Ok(()) }).await), ErrorCode::None);
    }
}
