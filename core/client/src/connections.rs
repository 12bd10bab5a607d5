//! A client's connections. An endpoint has one for requests, which also carries streams while it
//! has room for them; streams beyond that get further connections, each of which closes with its
//! last stream.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use millstream_net::{Connection, Connector};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::AddressFailure;

/// Addresses that a client keeps apart; more than brokers that a cluster may list is never met.
const ADDRESSES_MAX: usize = 10_000;
/// Connections to one endpoint. With the broker's usual limit of streams that is room for more
/// partitions than a topic may have.
const CONNECTIONS_PER_ENDPOINT_MAX: usize = 64;
/// Streams of a connection that sessions leave to requests: at most so many, and a quarter where
/// the broker allows few.
const REQUEST_STREAMS_MAX: u32 = 64;

/// How long one endpoint is given to connect before the next is tried beside it (RFC 8305's
/// recommendation for addresses of one host).
const NEXT_ENDPOINT_DELAY: Duration = Duration::from_millis(250);

/// One connection and the room that it has for sessions.
#[derive(Debug)]
struct Lane {
    connection: Connection,
    room: Arc<Semaphore>,
}

impl Lane {
    fn new(connection: Connection) -> Self {
        let room = session_streams(connection.hello().streams_max);
        Self { connection, room: Arc::new(Semaphore::new(room)) }
    }

    fn try_take(self: &Arc<Self>) -> Option<StreamPlace> {
        if self.connection.is_closed() {
            return None;
        }
        let permit = Arc::clone(&self.room).try_acquire_owned().ok()?;
        Some(StreamPlace { _permit: permit, lane: Arc::clone(self) })
    }
}

/// How many of a connection's streams sessions may hold, so that requests never wait for them.
fn session_streams(streams_max: u32) -> usize {
    let reserved = REQUEST_STREAMS_MAX.min(streams_max / 4).max(1);
    let sessions = streams_max.saturating_sub(reserved).max(1);
    usize::try_from(sessions).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

/// The place of one produce stream or subscription on a connection. Hold it for as long as the
/// stream, and drop it after.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    _permit: OwnedSemaphorePermit,
    lane: Arc<Lane>,
}

impl StreamPlace {
    pub(crate) fn connection(&self) -> &Connection {
        &self.lane.connection
    }
}

/// The connections to one endpoint. Connecting to it is done by one at a time.
#[derive(Debug, Default)]
struct Endpoint {
    first: Option<Arc<Lane>>,
    /// Held by their streams alone.
    further: Vec<Weak<Lane>>,
}

type Slot = Arc<tokio::sync::Mutex<Endpoint>>;

/// Connections by address.
#[derive(Debug)]
pub(crate) struct Connections {
    connector: Connector,
    by_endpoint: Mutex<BTreeMap<String, Slot>>,
    closed: AtomicBool,
}

impl Connections {
    pub(crate) fn new(connector: Connector) -> Self {
        Self { connector, by_endpoint: Mutex::default(), closed: AtomicBool::new(false) }
    }

    /// The connection for requests to `endpoint`, made if there is none; in words why there is
    /// none.
    pub(crate) async fn for_requests(&self, endpoint: &str) -> Result<Connection, String> {
        let slot = self.slot(endpoint);
        let mut slot = slot.lock().await;
        Ok(self.first(&mut slot, endpoint).await?.connection.clone())
    }

    /// A connection for requests to any of these endpoints, with its endpoint. Each is given a
    /// moment before the next is tried beside it, so that one that is silent costs no more than
    /// that; the first to connect is taken. `None` when there are none, or none that connects: why
    /// not stands in `failures` then, as does whatever failed before.
    pub(crate) async fn any_for_requests(
        &self,
        endpoints: &[String],
        failures: &mut Vec<AddressFailure>,
    ) -> Option<(String, Connection)> {
        let mut endpoints = endpoints.iter();
        let mut attempts = Vec::new();
        loop {
            if let Some(endpoint) = endpoints.next() {
                attempts.push((endpoint, Box::pin(self.for_requests(endpoint))));
            } else if attempts.is_empty() {
                return None;
            }
            let ended = poll_fn(|cx| first_ended(&mut attempts, cx));
            let (endpoint, result) = if endpoints.len() == 0 {
                ended.await
            } else {
                match tokio::time::timeout(NEXT_ENDPOINT_DELAY, ended).await {
                    Ok(ended) => ended,
                    Err(_elapsed) => continue,
                }
            };
            match result {
                Ok(connection) => return Some((endpoint.clone(), connection)),
                Err(reason) => failures.push(AddressFailure { address: endpoint.clone(), reason }),
            }
        }
    }

    /// A place for one stream to `endpoint`, on a new connection if the present ones are full; in
    /// words why there is none.
    pub(crate) async fn place(&self, endpoint: &str) -> Result<StreamPlace, String> {
        let slot = self.slot(endpoint);
        let mut slot = slot.lock().await;
        if let Some(place) = self.first(&mut slot, endpoint).await?.try_take() {
            return Ok(place);
        }
        slot.further.retain(|lane| lane.upgrade().is_some_and(|lane| !lane.connection.is_closed()));
        let further = slot.further.iter().filter_map(Weak::upgrade);
        if let Some(place) = further.filter_map(|lane| lane.try_take()).next() {
            return Ok(place);
        }
        if slot.further.len() + 1 >= CONNECTIONS_PER_ENDPOINT_MAX {
            return Err(format!(
                "{CONNECTIONS_PER_ENDPOINT_MAX} connections to {endpoint} have no room for another \
                 stream: use fewer partitions in this client, or raise \
                 limits.streams_per_connection_max on the broker"
            ));
        }
        let lane = Arc::new(self.connect(endpoint).await?);
        slot.further.push(Arc::downgrade(&lane));
        lane.try_take().ok_or_else(|| format!("the connection to {endpoint} was lost"))
    }

    /// The endpoints that have an open connection.
    pub(crate) fn connected(&self) -> Vec<String> {
        let open = |slot: &Slot| {
            let slot = slot.try_lock().ok()?;
            slot.first.as_ref().map(|lane| !lane.connection.is_closed())
        };
        let by_endpoint = lock(&self.by_endpoint);
        let connected = by_endpoint.iter().filter(|(_, slot)| open(slot) == Some(true));
        connected.map(|(endpoint, _)| endpoint.clone()).collect()
    }

    /// Closes every connection and waits until the brokers know.
    pub(crate) async fn close(&self, timeout: Duration) {
        self.closed.store(true, Ordering::Relaxed);
        let slots: Vec<Slot> = lock(&self.by_endpoint).values().map(Arc::clone).collect();
        for slot in slots {
            let Endpoint { first, further } = std::mem::take(&mut *slot.lock().await);
            for lane in first.into_iter().chain(further.iter().filter_map(Weak::upgrade)) {
                lane.connection.close("the client closes");
            }
        }
        self.connector.wait_idle(timeout).await;
    }

    fn slot(&self, endpoint: &str) -> Slot {
        let mut by_endpoint = lock(&self.by_endpoint);
        if by_endpoint.len() >= ADDRESSES_MAX && !by_endpoint.contains_key(endpoint) {
            // Those without a holder go; streams keep theirs alive.
            by_endpoint.clear();
        }
        Arc::clone(by_endpoint.entry(endpoint.to_owned()).or_default())
    }

    async fn first<'a>(
        &self,
        slot: &'a mut Endpoint,
        endpoint: &str,
    ) -> Result<&'a Arc<Lane>, String> {
        if self.closed.load(Ordering::Relaxed) {
            return Err("the client is closed".to_owned());
        }
        let open = slot.first.take().filter(|lane| !lane.connection.is_closed());
        let lane = match open {
            Some(lane) => lane,
            None => Arc::new(self.connect(endpoint).await?),
        };
        Ok(slot.first.insert(lane))
    }

    async fn connect(&self, endpoint: &str) -> Result<Lane, String> {
        // Boxed: rare, and too large to be part of every task that may connect.
        let connecting = Box::pin(self.connector.connect(endpoint));
        let connection = connecting.await.map_err(|error| error.to_string())?;
        tracing::debug!(endpoint, "connected");
        Ok(Lane::new(connection))
    }
}

/// Takes the first attempt that has ended out of `attempts`, with its result.
fn first_ended<K: Copy, F: Future + Unpin>(
    attempts: &mut Vec<(K, F)>,
    cx: &mut Context<'_>,
) -> Poll<(K, F::Output)> {
    for at in 0..attempts.len() {
        let (key, attempt) = &mut attempts[at];
        if let Poll::Ready(output) = Pin::new(attempt).poll(cx) {
            let key = *key;
            drop(attempts.remove(at));
            return Poll::Ready((key, output));
        }
    }
    Poll::Pending
}

/// Locks; every change under this lock is complete before anything that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_leave_streams_to_requests() {
        assert_eq!(session_streams(2048), 1984);
        assert_eq!(session_streams(8), 6);
        // A connection that allows one stream serves either, one at a time.
        assert_eq!([1, 2, 3].map(session_streams), [1, 1, 2]);
    }
}
