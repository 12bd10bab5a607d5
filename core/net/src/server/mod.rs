//! The QUIC front: accepts connections, reads frames, calls the service, writes what it answers.
//!
//! One task runs each connection and one each stream. Memory has bounds: what QUIC's windows let a
//! connection have unread, what received frames may hold until they are answered (`crate::memory`),
//! and what replies to calls may hold until the transport has them (`replies`); each for one
//! connection and for all together.

mod admission;
mod connection;
mod delivery;
mod produce;
mod replies;
mod streams;
mod subscribe;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use millstream_service::Service;
use millstream_types::{BrokerId, ClusterId};
use quinn::{Endpoint, EndpointConfig, Incoming};
use quinn_proto::HashedConnectionIdGenerator;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::admission::{Admission, Bounds, Verdict};
use self::replies::SharedReplies;
use crate::close_code;
use crate::counters::{Counters, add};
use crate::endpoint;
use crate::memory::SharedMemory;
use crate::tls::{ServerTls, TlsError};
use crate::transport::{
    INCOMING_BUFFER_BYTES, INCOMING_BUFFER_BYTES_TOTAL, INCOMING_MAX, TransportOptions,
};
use crate::windows::Windows;

/// How long a stopped server waits for its last packets to be acknowledged.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes the tokens of stateless resets (RFC 9000, section 10.3). A broker that keeps its key over
/// a crash can tell the clients of its earlier life at once that their connections are gone; with a
/// fresh key they find out by their idle timeout. Secret: whoever has it can end connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ResetKey(pub [u8; 32]);

impl std::fmt::Debug for ResetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResetKey(..)")
    }
}

impl ResetKey {
    fn configure(self, config: &mut EndpointConfig) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        config.reset_key(Arc::new(key));
        // Connection ids carry a check that tells ours from random ones before a reset is sent;
        // it has to be the same in the next life.
        let ids = self.0.first_chunk().copied().map_or(0, u64::from_be_bytes);
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    }
}

/// What a server is made of.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Certificates, and whether clients need them.
    pub tls: ServerTls,
    /// The cluster, as clients are told.
    pub cluster: ClusterId,
    /// The broker, as clients are told.
    pub broker: BrokerId,
    /// The key of this broker's stateless resets; `None` makes one for this run alone.
    pub reset_key: Option<ResetKey>,
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one IPv4 address or one IPv6 /64.
    pub connections_per_address_max: usize,
    /// Above so many unfinished handshakes, new clients must first prove their address (Retry).
    pub validate_above_handshakes: usize,
    /// From a client's first packet to its Hello.
    pub handshake_timeout: Duration,
    /// From a frame's first byte to its last, and from a stream's opening to its first frame.
    pub frame_timeout: Duration,
    /// How long a client may take nothing of a reply, and a call without a deadline may wait for
    /// memory for its reply; 8 s more for each MiB of it that the client has to take.
    pub reply_timeout: Duration,
    /// Bytes of received batches that all connections may hold until they are answered, counted as
    /// they arrive; at least one frame. Calls and opens have accounts of their own.
    pub receive_bytes_max: usize,
    /// The same for one connection, counted by what it announces.
    pub connection_receive_bytes_max: usize,
    /// Bytes that QUIC's receive windows of all connections may come to, and a quarter more for
    /// their send windows; beyond it, each connection has the least window there is.
    pub window_bytes_max: u64,
    /// QUIC.
    pub transport: TransportOptions,
}

impl ServerConfig {
    /// Defaults for everything but who and where.
    #[must_use]
    pub fn new(listen: SocketAddr, tls: ServerTls, cluster: ClusterId, broker: BrokerId) -> Self {
        Self {
            listen,
            tls,
            cluster,
            broker,
            reset_key: None,
            connections_max: 4096,
            connections_per_address_max: 256,
            validate_above_handshakes: 64,
            handshake_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(60),
            reply_timeout: Duration::from_secs(30),
            receive_bytes_max: 1024 * 1024 * 1024,
            connection_receive_bytes_max: 128 * 1024 * 1024,
            window_bytes_max: 1024 * 1024 * 1024,
            transport: TransportOptions::default(),
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, Error)]
pub enum BindError {
    /// Certificates or keys are unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}/udp: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// What all connections share.
pub(crate) struct Shared<S> {
    service: Arc<S>,
    config: ServerConfig,
    counters: Arc<Counters>,
    admission: Arc<Admission>,
    /// What received frames may hold in all.
    memory: Arc<SharedMemory>,
    /// What replies to calls may hold in all.
    replies: Arc<SharedReplies>,
    /// What QUIC may keep in all.
    windows: Arc<Windows>,
    /// `Some` once the server is to stop: when its streams must have ended.
    stop: watch::Receiver<Option<Instant>>,
}

/// A server, listening. It serves while [`Server::run`] is polled.
pub struct Server<S> {
    shared: Arc<Shared<S>>,
    endpoint: Endpoint,
    address: SocketAddr,
    stop: watch::Sender<Option<Instant>>,
    drained: watch::Sender<bool>,
}

impl<S> std::fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl<S: Service> Server<S> {
    /// Starts to listen. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`BindError`] when the certificates are unusable or the address is taken.
    pub fn bind(config: ServerConfig, service: Arc<S>) -> Result<Self, BindError> {
        let crypto = Arc::new(config.tls.quic()?);
        let mut quic = quinn::ServerConfig::with_crypto(crypto);
        quic.transport_config(config.transport.server())
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BUFFER_BYTES)
            .incoming_buffer_size_total(INCOMING_BUFFER_BYTES_TOTAL)
            // A client that moves connects again: admission counts addresses, and an address that
            // may change at will is none.
            .migration(false);
        let listen = config.listen;
        let failed = |source| BindError::Listen { address: listen, source };
        let mut endpoint_config = config.transport.endpoint();
        if let Some(key) = config.reset_key {
            key.configure(&mut endpoint_config);
        }
        let endpoint = endpoint::bind(endpoint_config, Some(quic), listen).map_err(failed)?;
        let address = endpoint.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(None);
        let counters = Arc::<Counters>::default();
        let shared = Shared {
            service,
            counters: Arc::clone(&counters),
            admission: Admission::new(Bounds {
                connections_max: config.connections_max,
                connections_per_address_max: config.connections_per_address_max,
                validate_above_handshakes: config.validate_above_handshakes,
            }),
            memory: SharedMemory::new(config.receive_bytes_max, Arc::clone(&counters)),
            replies: SharedReplies::new(counters),
            windows: Windows::new(config.window_bytes_max),
            stop: stopped,
            config,
        };
        let (drained, _) = watch::channel(false);
        Ok(Self { shared: Arc::new(shared), endpoint, address, stop, drained })
    }

    /// Where the server listens, with the port that it got.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Serves until [`Server::shutdown`]. Dropping the future ends all connections abruptly.
    pub async fn run(&self) {
        let mut tasks = JoinSet::new();
        let mut stop = self.shared.stop.clone();
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.admit(incoming, &mut tasks),
                    None => break,
                },
                Some(ended) = tasks.join_next() => report_panic(ended),
                _ = stop.wait_for(Option::is_some) => break,
            }
        }
        self.drain(&mut tasks).await;
        self.drained.send_replace(true);
    }

    /// Lets every stream come to its end for `grace`, turning newcomers away, then closes.
    async fn drain(&self, tasks: &mut JoinSet<()>) {
        let deadline = (*self.shared.stop.borrow()).unwrap_or_else(Instant::now);
        let drain = async {
            loop {
                tokio::select! {
                    ended = tasks.join_next() => match ended {
                        Some(ended) => report_panic(ended),
                        None => break,
                    },
                    Some(incoming) = self.endpoint.accept() => incoming.refuse(),
                }
            }
        };
        if tokio::time::timeout_at(deadline, drain).await.is_err() {
            tracing::warn!(connections = tasks.len(), "closing connections that did not end");
        }
        self.endpoint.close(close_code::SHUTTING_DOWN.into(), b"shutting down");
        tasks.shutdown().await;
    }

    fn admit(&self, incoming: Incoming, tasks: &mut JoinSet<()>) {
        let peer = incoming.remote_address();
        let validated = incoming.remote_address_validated();
        let shared = &self.shared;
        match shared.admission.admit(peer.ip(), validated, incoming.may_retry()) {
            Verdict::Accept(slot) => {
                tasks.spawn(connection::serve(Arc::clone(shared), incoming, slot));
            }
            Verdict::Validate => {
                add(&shared.counters.retried, 1);
                // `may_retry` was asked just above, so that this cannot fail.
                drop(incoming.retry());
            }
            Verdict::Refuse(bound) => {
                add(&shared.counters.refused, 1);
                tracing::debug!(%peer, bound, "connection refused");
                incoming.refuse();
            }
        }
    }

    /// Stops: no new connections or streams; calls and batches in flight are answered and
    /// subscriptions told to go elsewhere, for at most `grace`. Returns once the peers know, or
    /// have not answered for a few seconds more.
    pub async fn shutdown(&self, grace: Duration) {
        self.stop.send_replace(Some(Instant::now() + grace));
        let mut drained = self.drained.subscribe();
        // Late means that nobody polls `run`.
        drop(tokio::time::timeout(grace + CLOSE_TIMEOUT, drained.wait_for(|done| *done)).await);
        self.endpoint.close(close_code::SHUTTING_DOWN.into(), b"shutting down");
        // Without this, the last packets may never leave, and peers wait for their idle timeout.
        if tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("some peers did not acknowledge the end");
        }
    }
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}
