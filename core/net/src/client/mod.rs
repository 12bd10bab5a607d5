//! The client side of the protocol: connections with Hello said, calls, produce streams and
//! subscriptions. Retries, batching and routing to leaders are the client crate's.

mod connection;
mod error;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use millstream_wire::api::{FrameBody, Hello, HelloReply, Reply};
use millstream_wire::frame::{FrameKind, PROTOCOL_VERSION};
use quinn::{ClientConfig, Endpoint};
use tokio::task::JoinSet;

pub use self::connection::Connection;
pub use self::error::{CallError, CloseReason, ConnectError, StreamError};
pub use self::streams::{AckReceiver, BatchReceiver, ProduceSender, Received};
use crate::close_code;
use crate::counters::Counters;
use crate::endpoint;
use crate::frames::{FrameReader, send_bytes};
use crate::tls::ClientTls;
use crate::transport::TransportOptions;

/// The next address of a host is tried this long after the one before (RFC 8305).
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);

/// What a client says of itself, and how long it waits.
#[derive(Clone, Debug)]
pub struct ConnectorConfig {
    /// Names the client in the broker's logs, metrics and quotas; at most 255 bytes.
    pub client_id: String,
    /// The namespace of topic names.
    pub namespace: String,
    /// The client software's name, for operators.
    pub software_name: String,
    /// The client software's version, for operators.
    pub software_version: String,
    /// From the first packet to Hello's answer, for each address of a host.
    pub connect_timeout: Duration,
    /// For a produce stream or a subscription to open.
    pub open_timeout: Duration,
    /// From a frame's first byte to its last.
    pub frame_timeout: Duration,
    /// QUIC.
    pub transport: TransportOptions,
}

impl Default for ConnectorConfig {
    fn default() -> Self {
        Self {
            client_id: String::new(),
            namespace: "default".to_owned(),
            software_name: "millstream-rust".to_owned(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            connect_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(30),
            frame_timeout: Duration::from_secs(60),
            transport: TransportOptions::default(),
        }
    }
}

/// Makes connections, all over one socket.
#[derive(Clone)]
pub struct Connector {
    endpoint: Endpoint,
    quic: ClientConfig,
    config: Arc<ConnectorConfig>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connector {
    /// Opens the socket. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`ConnectError::Tls`] for unusable certificates, [`ConnectError::Socket`].
    pub fn new(tls: &ClientTls, config: ConnectorConfig) -> Result<Self, ConnectError> {
        let mut quic = ClientConfig::new(Arc::new(tls.quic()?));
        quic.transport_config(config.transport.client());
        let endpoint =
            endpoint::bind_client(&config.transport.endpoint()).map_err(ConnectError::Socket)?;
        Ok(Self { endpoint, quic, config: Arc::new(config), counters: Arc::default() })
    }

    /// Connects to `endpoint`, as `host:port`, and says Hello. A host with several addresses is
    /// tried at all of them, staggered, and the first that answers is taken.
    ///
    /// # Errors
    /// [`ConnectError`]; with several addresses, that of the last to fail.
    pub async fn connect(&self, endpoint: &str) -> Result<Connection, ConnectError> {
        let (host, port) = parse(endpoint)?;
        let resolve = |source| ConnectError::Resolve { endpoint: endpoint.to_owned(), source };
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((host, port)).await.map_err(resolve)?.collect();
        let mut attempts = JoinSet::new();
        let mut addresses = addresses.into_iter();
        let mut last = None;
        loop {
            if let Some(address) = addresses.next() {
                let (this, host, endpoint) = (self.clone(), host.to_owned(), endpoint.to_owned());
                attempts.spawn(async move { this.attempt(address, &host, &endpoint).await });
            } else if attempts.is_empty() {
                let none = std::io::Error::new(std::io::ErrorKind::NotFound, "no address");
                return Err(last.unwrap_or_else(|| resolve(none)));
            }
            let wait = async {
                if addresses.len() > 0 {
                    tokio::time::sleep(NEXT_ADDRESS_DELAY).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                Some(ended) = attempts.join_next() => match ended {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(error)) => last = Some(error),
                    Err(error) => tracing::error!(%error, "a connection attempt panicked"),
                },
                () = wait => {}
            }
        }
    }

    async fn attempt(
        &self,
        address: SocketAddr,
        host: &str,
        endpoint: &str,
    ) -> Result<Connection, ConnectError> {
        let timeout = self.config.connect_timeout;
        let late = || ConnectError::Timeout { endpoint: endpoint.to_owned(), timeout };
        tokio::time::timeout(timeout, self.handshake(address, host, endpoint))
            .await
            .unwrap_or_else(|_late| Err(late()))
    }

    async fn handshake(
        &self,
        address: SocketAddr,
        host: &str,
        endpoint: &str,
    ) -> Result<Connection, ConnectError> {
        let connecting = self
            .endpoint
            .connect_with(self.quic.clone(), address, host)
            .map_err(|error| protocol(endpoint, error))?;
        let connection = connecting.await.map_err(|error| lost(endpoint, error.into()))?;
        match self.hello(&connection, endpoint).await {
            Ok(reply) => {
                let (config, counters) = (Arc::clone(&self.config), Arc::clone(&self.counters));
                Ok(Connection::new(connection, reply, config, counters))
            }
            Err(error) => {
                // A closed connection knows better why Hello failed than the stream does.
                let reason = connection.close_reason();
                connection.close(close_code::DONE.into(), b"");
                let refused = matches!(error, ConnectError::Refused { .. });
                Err(match reason {
                    Some(reason) if !refused => lost(endpoint, reason.into()),
                    _ => error,
                })
            }
        }
    }

    async fn hello(
        &self,
        connection: &quinn::Connection,
        endpoint: &str,
    ) -> Result<HelloReply, ConnectError> {
        let hello = Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            client_id: self.config.client_id.clone(),
            namespace: self.config.namespace.clone(),
            software_name: self.config.software_name.clone(),
            software_version: self.config.software_version.clone(),
        };
        let frame = hello.to_frame().map_err(|error| protocol(endpoint, error))?;
        let failed = |error: StreamError| match error {
            StreamError::ConnectionLost(reason) => lost(endpoint, reason),
            other => protocol(endpoint, other),
        };
        let opened = connection.open_bi().await;
        let (mut send, recv) = opened.map_err(|error| lost(endpoint, error.into()))?;
        let sent = send_bytes(&mut send, &self.counters, frame).await;
        sent.map_err(|error| failed(error.into()))?;
        // Refused only on a stream that is over, which the read below reports.
        drop(send.finish());
        let counters = Arc::clone(&self.counters);
        let mut reader = FrameReader::new(recv, counters, self.config.frame_timeout);
        let frame = reader.next().await.map_err(|error| failed(error.into()))?;
        let Some(frame) = frame.filter(|frame| frame.kind == FrameKind::HelloReply) else {
            return Err(protocol(endpoint, "Hello was not answered"));
        };
        let Reply(reply) =
            Reply::from_body(&frame.body).map_err(|error| protocol(endpoint, error))?;
        reply.map_err(|error| ConnectError::Refused { endpoint: endpoint.to_owned(), error })
    }

    /// Waits until every connection made here is closed and its broker knows it, for at most
    /// `timeout`. Call it before the process ends, or brokers wait out their idle timeout.
    pub async fn wait_idle(&self, timeout: Duration) {
        if tokio::time::timeout(timeout, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("some brokers did not acknowledge the end");
        }
    }

    /// What happened so far, over all connections.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

fn lost(endpoint: &str, reason: CloseReason) -> ConnectError {
    let endpoint = endpoint.to_owned();
    match reason {
        CloseReason::Tls(detail) => ConnectError::Untrusted { endpoint, detail },
        reason => ConnectError::Lost { endpoint, reason },
    }
}

fn protocol(endpoint: &str, detail: impl std::fmt::Display) -> ConnectError {
    ConnectError::Protocol { endpoint: endpoint.to_owned(), detail: detail.to_string() }
}

/// Takes `host:port` or `[v6]:port` apart.
fn parse(endpoint: &str) -> Result<(&str, u16), ConnectError> {
    let bad = || ConnectError::BadEndpoint(endpoint.to_owned());
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().map_err(|_| bad())?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    // Without brackets, the last part of an IPv6 address would pass for a port.
    if host.is_empty() || (bare.is_none() && host.contains(':')) {
        return Err(bad());
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        assert_eq!(parse("localhost:9092").unwrap(), ("localhost", 9092));
        assert_eq!(parse("[::1]:9092").unwrap(), ("::1", 9092));
        for bad in ["", "localhost", ":9092", "::1:9092", "host:99999", "host:"] {
            assert!(matches!(parse(bad), Err(ConnectError::BadEndpoint(_))), "{bad:?}");
        }
    }
}
