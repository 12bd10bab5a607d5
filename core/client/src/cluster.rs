//! What a client knows of its cluster: connections by address, who leads which partition, and
//! requests that find a broker to answer them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_env::clock::{Clock, Monotonic};
use millstream_net::{CallError, Connector};
use millstream_types::limits::REQUEST_TOPICS_MAX;
use millstream_types::{ErrorCode, LeaderEpoch, PartitionIndex, TopicId};
use millstream_wire::api::{
    ListOffsetsRequest, MetadataRequest, MetadataResponse, OffsetSpec, PartitionOffset, Request,
    Response, ServiceError, TopicMetadata,
};

use crate::admin::unexpected;
use crate::connections::{Connections, StreamPlace};
use crate::error::{AddressFailure, AddressFailures, AdminError, ConnectError};
use crate::random::{Backoff, Random};

/// Between attempts of one request.
const REQUEST_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

/// Where a partition's leader is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) topic: TopicId,
    pub(crate) endpoint: String,
    pub(crate) leader_epoch: Option<LeaderEpoch>,
}

/// A topic as last heard of.
#[derive(Debug)]
pub(crate) struct TopicRoutes {
    pub(crate) topic: TopicId,
    /// By partition.
    leaders: Vec<Option<Leader>>,
    fetched_at: Monotonic,
}

#[derive(Clone, Debug)]
struct Leader {
    endpoint: String,
    epoch: LeaderEpoch,
}

impl TopicRoutes {
    pub(crate) fn partitions(&self) -> u32 {
        u32::try_from(self.leaders.len()).unwrap_or(u32::MAX)
    }
}

/// A client's view of its cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    connections: Connections,
    bootstrap: Vec<String>,
    request_timeout: Duration,
    clock: Arc<dyn Clock>,
    random: Arc<Random>,
    /// Brokers by last metadata.
    brokers: Mutex<Vec<String>>,
    /// By name. Bounded by [`REQUEST_TOPICS_MAX`].
    topics: Mutex<BTreeMap<String, Arc<TopicRoutes>>>,
    /// One fetch at a time: whoever waited for it finds the answer in `topics`.
    fetching: tokio::sync::Mutex<()>,
}

/// Locks; every change under these locks is complete before anything that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    pub(crate) fn new(
        connector: Connector,
        bootstrap: Vec<String>,
        request_timeout: Duration,
        clock: Arc<dyn Clock>,
        random: Arc<Random>,
    ) -> Self {
        Self {
            connections: Connections::new(connector),
            bootstrap,
            request_timeout,
            clock,
            random,
            brokers: Mutex::default(),
            topics: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Connects to the bootstrap address that answers first.
    pub(crate) async fn bootstrap(&self) -> Result<(), ConnectError> {
        let mut failures = Vec::new();
        match self.connections.any_for_requests(&self.bootstrap, &mut failures).await {
            Some(_) => Ok(()),
            None => Err(ConnectError::Unreachable { failures: AddressFailures(failures) }),
        }
    }

    /// A place for one stream to `endpoint`; in words why there is none.
    pub(crate) async fn place(&self, endpoint: &str) -> Result<StreamPlace, String> {
        self.connections.place(endpoint).await
    }

    /// Asks any broker, one after another, until one answers; the last error when the request
    /// timeout passes.
    pub(crate) async fn call(&self, request: Request) -> Result<Response, AdminError> {
        let mut last_error = AdminError::TimedOut;
        let attempts = async {
            let mut attempt = 0;
            loop {
                let error = match self.call_once(&request).await {
                    Ok(response) => return Ok(response),
                    Err(error) => error,
                };
                if !error.is_retriable() {
                    return Err(error);
                }
                tracing::debug!(%error, attempt, "a request failed and is made again");
                tokio::time::sleep(REQUEST_BACKOFF.delay(attempt, &self.random)).await;
                attempt = attempt.saturating_add(1);
                if attempt >= 3 && matches!(error, AdminError::Unreachable { .. }) {
                    return Err(error);
                }
                last_error = error;
            }
        };
        let timed = tokio::time::timeout(self.request_timeout, attempts).await;
        timed.unwrap_or(Err(last_error))
    }

    /// Asks each known address once, those with a connection first; of the others whichever
    /// connects first.
    async fn call_once(&self, request: &Request) -> Result<Response, AdminError> {
        let mut failures: Vec<AddressFailure> = Vec::new();
        let mut addresses = self.addresses();
        while let Some((address, connection)) =
            self.connections.any_for_requests(&addresses, &mut failures).await
        {
            match Box::pin(connection.request(request, self.request_timeout)).await {
                Ok(response) => return Ok(response),
                Err(CallError::Service(error)) => return Err(service_error(error)),
                Err(CallError::Protocol(reason)) => return Err(AdminError::Protocol { reason }),
                Err(CallError::Timeout(_)) => return Err(AdminError::TimedOut),
                Err(error @ CallError::ConnectionLost(_)) => {
                    failures.push(AddressFailure { address, reason: error.to_string() });
                }
            }
            addresses.retain(|address| failures.iter().all(|failed| failed.address != *address));
        }
        Err(AdminError::Unreachable { failures: AddressFailures(failures) })
    }

    /// Asks the broker at `endpoint`, once.
    async fn call_at(&self, endpoint: &str, request: &Request) -> Result<Response, CallError> {
        let connection = self.connections.for_requests(endpoint).await.map_err(|reason| {
            CallError::ConnectionLost(millstream_net::CloseReason::Transport(reason))
        })?;
        Box::pin(connection.request(request, self.request_timeout)).await
    }

    /// Every address worth asking: connected ones first, then bootstrap, then other brokers.
    fn addresses(&self) -> Vec<String> {
        let mut addresses = self.connections.connected();
        for address in self.bootstrap.iter().chain(lock(&self.brokers).iter()) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// Where topics are; `None` asks for all, an empty list for the brokers alone.
    pub(crate) async fn metadata(
        &self,
        topics: Option<Vec<String>>,
    ) -> Result<MetadataResponse, AdminError> {
        match self.call(MetadataRequest { topics }.into()).await? {
            Response::Metadata(metadata) => {
                let brokers = metadata.brokers.iter().map(|broker| broker.endpoint.clone());
                *lock(&self.brokers) = brokers.collect();
                Ok(metadata)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// A topic's partitions and leaders, as heard at `not_before` or later.
    pub(crate) async fn topic(
        &self,
        name: &str,
        not_before: Monotonic,
    ) -> Result<Arc<TopicRoutes>, AdminError> {
        if let Some(known) = self.known(name, not_before) {
            return Ok(known);
        }
        let _one_at_a_time = self.fetching.lock().await;
        if let Some(known) = self.known(name, not_before) {
            return Ok(known);
        }
        let fetched_at = self.clock.monotonic();
        let metadata = self.metadata(Some(vec![name.to_owned()])).await?;
        let Some(topic) = metadata.topics.iter().find(|topic| topic.name == name) else {
            let reason = format!("metadata without topic {name}");
            return Err(AdminError::Protocol { reason });
        };
        if topic.error != ErrorCode::None {
            lock(&self.topics).remove(name);
            let message = format!("topic {name}");
            return Err(AdminError::Service { code: topic.error, message });
        }
        let routes = Arc::new(routes(&metadata, topic, fetched_at));
        let mut topics = lock(&self.topics);
        if topics.len() >= REQUEST_TOPICS_MAX && !topics.contains_key(name) {
            topics.clear();
        }
        topics.insert(name.to_owned(), Arc::clone(&routes));
        Ok(routes)
    }

    fn known(&self, name: &str, not_before: Monotonic) -> Option<Arc<TopicRoutes>> {
        let topics = lock(&self.topics);
        topics.get(name).filter(|topic| topic.fetched_at >= not_before).map(Arc::clone)
    }

    /// Where a partition's leader is, as heard at `not_before` or later.
    pub(crate) async fn route(
        &self,
        name: &str,
        partition: u32,
        not_before: Monotonic,
    ) -> Result<Route, AdminError> {
        let topic = self.topic(name, not_before).await?;
        let Some(leader) = topic.leaders.get(partition as usize) else {
            let message = format!("topic {name} has {} partitions", topic.partitions());
            return Err(AdminError::Service { code: ErrorCode::UnknownPartition, message });
        };
        let Some(leader) = leader else {
            let message = format!("partition {partition} of topic {name} has no leader");
            return Err(AdminError::Service { code: ErrorCode::NotLeader, message });
        };
        Ok(Route {
            topic: topic.topic,
            endpoint: leader.endpoint.clone(),
            leader_epoch: Some(leader.epoch),
        })
    }

    /// One offset of each of the wanted partitions of a topic, or of all where none is named, each
    /// from its leader.
    pub(crate) async fn list_offsets(
        &self,
        name: &str,
        wanted: &[u32],
        spec: OffsetSpec,
    ) -> Result<Vec<PartitionOffset>, AdminError> {
        let attempts = async {
            let mut attempt = 0;
            let mut not_before = self.clock.monotonic();
            loop {
                let error = match self.list_offsets_once(name, wanted, spec, not_before).await {
                    Ok(answers) => return Ok(answers),
                    Err(error) => error,
                };
                if !error.is_retriable() {
                    return Err(error);
                }
                tokio::time::sleep(REQUEST_BACKOFF.delay(attempt, &self.random)).await;
                attempt = attempt.saturating_add(1);
                not_before = self.clock.monotonic();
            }
        };
        let timed = tokio::time::timeout(self.request_timeout, attempts).await;
        timed.unwrap_or(Err(AdminError::TimedOut))
    }

    async fn list_offsets_once(
        &self,
        name: &str,
        wanted: &[u32],
        spec: OffsetSpec,
        not_before: Monotonic,
    ) -> Result<Vec<PartitionOffset>, AdminError> {
        let topic = self.topic(name, not_before).await?;
        let count = topic.leaders.len();
        if let Some(missing) = wanted.iter().find(|index| **index as usize >= count) {
            let message =
                format!("topic {name} has {count} partitions, there is no partition {missing}");
            return Err(AdminError::Service { code: ErrorCode::UnknownPartition, message });
        }
        let mut by_leader: BTreeMap<&str, Vec<PartitionIndex>> = BTreeMap::new();
        for (partition, leader) in (0..).zip(&topic.leaders) {
            if !wanted.is_empty() && !wanted.contains(&partition) {
                continue;
            }
            let Some(leader) = leader else {
                let message = format!("partition {partition} of topic {name} has no leader");
                return Err(AdminError::Service { code: ErrorCode::NotLeader, message });
            };
            by_leader.entry(&leader.endpoint).or_default().push(PartitionIndex(partition));
        }
        let mut answers = Vec::with_capacity(topic.leaders.len());
        for (endpoint, partitions) in by_leader {
            let request = ListOffsetsRequest { topic: topic.topic, partitions, spec };
            let response = match self.call_at_once(endpoint, request).await? {
                Response::ListOffsets(response) => response,
                other => return Err(unexpected(&other)),
            };
            for partition in response.partitions {
                if partition.error != ErrorCode::None {
                    let message = format!("topic {name}, partition {}", partition.partition);
                    return Err(AdminError::Service { code: partition.error, message });
                }
                answers.push(partition);
            }
        }
        Ok(answers)
    }

    /// Asks the broker at `endpoint` alone, once.
    pub(crate) async fn call_at_once(
        &self,
        endpoint: &str,
        request: impl Into<Request>,
    ) -> Result<Response, AdminError> {
        let answer = self.call_at(endpoint, &request.into()).await;
        answer.map_err(|error| call_error(endpoint, error))
    }

    /// Asks a partition's leader until it answers; the last error when the request timeout passes.
    pub(crate) async fn call_leader(
        &self,
        name: &str,
        partition: u32,
        request: impl Fn(TopicId) -> Request,
    ) -> Result<Response, AdminError> {
        let mut last_error = AdminError::TimedOut;
        let attempts = async {
            let mut attempt = 0;
            loop {
                let error = match self.call_leader_once(name, partition, &request).await {
                    Ok(response) => return Ok(response),
                    Err(error) => error,
                };
                if !error.is_retriable() {
                    return Err(error);
                }
                last_error = error;
                tokio::time::sleep(REQUEST_BACKOFF.delay(attempt, &self.random)).await;
                attempt = attempt.saturating_add(1);
            }
        };
        let timed = tokio::time::timeout(self.request_timeout, attempts).await;
        timed.unwrap_or(Err(last_error))
    }

    async fn call_leader_once(
        &self,
        name: &str,
        partition: u32,
        request: impl Fn(TopicId) -> Request,
    ) -> Result<Response, AdminError> {
        let route = self.route(name, partition, self.clock.monotonic()).await?;
        self.call_at_once(&route.endpoint, request(route.topic)).await
    }

    /// Forgets where a topic is: it was changed.
    pub(crate) fn forget(&self, name: &str) {
        lock(&self.topics).remove(name);
    }

    /// Closes every connection and waits until the brokers know.
    pub(crate) async fn close(&self, timeout: Duration) {
        self.connections.close(timeout).await;
    }
}

fn routes(metadata: &MetadataResponse, topic: &TopicMetadata, now: Monotonic) -> TopicRoutes {
    let mut leaders = vec![None; topic.partitions.len()];
    for partition in &topic.partitions {
        let leader =
            metadata.brokers.iter().find(|broker| Some(broker.broker) == partition.leader).map(
                |broker| Leader {
                    endpoint: broker.endpoint.clone(),
                    epoch: partition.leader_epoch,
                },
            );
        if let Some(place) = leaders.get_mut(partition.partition.0 as usize) {
            *place = leader;
        }
    }
    TopicRoutes { topic: topic.topic, leaders, fetched_at: now }
}

fn service_error(error: ServiceError) -> AdminError {
    AdminError::Service { code: error.code, message: error.message }
}

/// The error of a call to one broker.
pub(crate) fn call_error(endpoint: &str, error: CallError) -> AdminError {
    match error {
        CallError::Service(error) => service_error(error),
        CallError::Timeout(_) => AdminError::TimedOut,
        CallError::Protocol(reason) => AdminError::Protocol { reason },
        CallError::ConnectionLost(reason) => {
            let (address, reason) = (endpoint.to_owned(), reason.to_string());
            let failures = AddressFailures(vec![AddressFailure { address, reason }]);
            AdminError::Unreachable { failures }
        }
    }
}
