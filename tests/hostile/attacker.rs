//! A QUIC client that is not ours and knows the protocol from docs/protocol.md alone.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::attacks::Sent;

/// The protocol's name in TLS.
const ALPN: &[u8] = b"millstream/1";
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Where to attack, and what a peer must know to be listened to at all.
#[derive(Clone, Debug)]
pub(crate) struct Attacker {
    pub(crate) broker: SocketAddr,
    /// A topic of one partition that holds much.
    pub(crate) bait: [u8; 16],
    /// What it takes of one stream that it does not read, in bytes.
    pub(crate) stream_window: u32,
    /// What the attacks sent, over all rounds.
    pub(crate) sent: Arc<Sent>,
    endpoint: Endpoint,
    roots: rustls::RootCertStore,
}

impl Attacker {
    /// Trusts the authority in the PEM file `ca`. Needs a tokio runtime around it.
    pub(crate) fn new(
        broker: SocketAddr,
        ca: &Path,
        bait: [u8; 16],
        sent: Arc<Sent>,
    ) -> Result<Attacker> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).context("no certificate in the CA file")?)?;
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Attacker { broker, bait, stream_window: 1 << 20, sent, endpoint, roots })
    }

    /// A connection, with no word said yet.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        self.connect_as(&[ALPN]).await
    }

    /// A connection that offers these application protocols.
    pub(crate) async fn connect_as(&self, protocols: &[&[u8]]) -> Result<Connection> {
        let mut tls = rustls::ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let mut transport = quinn::TransportConfig::default();
        // It keeps what it never reads: as much as it is given.
        transport.receive_window(VarInt::from_u32(1 << 28));
        transport.stream_receive_window(self.stream_window.into());
        config.transport_config(Arc::new(transport));
        let connecting = self.endpoint.connect_with(config, self.broker, "localhost")?;
        Ok(tokio::time::timeout(CONNECT_WITHIN, connecting).await??)
    }

    /// A connection that was greeted by the rules.
    pub(crate) async fn greeted(&self) -> Result<Connection> {
        let connection = self.connect().await?;
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(&hello()).await?;
        send.finish()?;
        let reply = tokio::time::timeout(CONNECT_WITHIN, recv.read_to_end(1 << 16)).await??;
        anyhow::ensure!(reply.get(4) == Some(&2), "the broker did not greet: {reply:?}");
        Ok(connection)
    }

    /// A stream of a connection that was greeted.
    pub(crate) async fn stream(&self) -> Result<(Connection, SendStream, RecvStream)> {
        let connection = self.greeted().await?;
        let (send, recv) = connection.open_bi().await?;
        Ok((connection, send, recv))
    }
}

/// A gauge or counter of the broker, asked for on a connection that follows the rules.
pub(crate) async fn metric(connection: &Connection, wanted: &str) -> Result<u64> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&request(8, &[])).await?;
    send.finish()?;
    let reply = tokio::time::timeout(CONNECT_WITHIN, recv.read_to_end(1 << 20)).await??;
    // The frame's header, a status of success, the length of the response, the count of metrics.
    let mut rest = reply.get(8 + 9 + 4 + 4..).context("no response")?;
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (name, after) = after.split_at_checked(length).context("a name cut short")?;
        let (value, after) = after.split_first_chunk::<9>().context("a value cut short")?;
        if name == wanted.as_bytes() {
            let number = u64::from_be_bytes(*value.last_chunk().context("no value")?);
            let gauge = f64::from_bits(number);
            return Ok(if value[0] == 0 { number } else { format!("{gauge:.0}").parse()? });
        }
        rest = after;
    }
    anyhow::bail!("the broker has no metric {wanted}")
}

/// A frame: its body's length, its kind, version 1, no flags, its body.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    frame_that_claims(u32::try_from(body.len()).unwrap_or(u32::MAX), kind, body)
}

/// A frame whose header claims another length than its body has.
pub(crate) fn frame_that_claims(length: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend([kind, 1, 0, 0]);
    bytes.extend(body);
    bytes
}

/// A Hello as it should be.
pub(crate) fn hello() -> Vec<u8> {
    let mut body = b"MLST\x00\x01\x00\x01".to_vec();
    for text in ["nobody", "default", "attacker", "1"] {
        body.extend([0, u8::try_from(text.len()).unwrap_or(0)]);
        body.extend(text.as_bytes());
    }
    frame(1, &body)
}

/// An OpenProduce as it should be: acks from all, no producer.
pub(crate) fn open_produce(topic: &[u8; 16]) -> Vec<u8> {
    let mut body = topic.to_vec();
    body.extend(0_u32.to_be_bytes());
    body.extend([0, 0, 1]);
    body.extend([0; 16]);
    frame(5, &body)
}

/// An OpenSubscription as it should be, from the earliest record on.
pub(crate) fn open_subscription(topic: &[u8; 16]) -> Vec<u8> {
    let mut body = topic.to_vec();
    body.extend(0_u32.to_be_bytes());
    body.push(0);
    body.extend(0_u32.to_be_bytes());
    body.extend([0; 16]);
    frame(9, &body)
}

/// A Metadata request for so many topics, at most 10,000, of which there is none.
pub(crate) fn metadata_request(topics: u32) -> Vec<u8> {
    let mut request = vec![1];
    request.extend(topics.to_be_bytes());
    for topic in 0..topics {
        let name = format!("{topic:04}");
        request.extend([0, 4]);
        request.extend(name.as_bytes());
    }
    self::request(1, &request)
}

/// A Request without a deadline.
fn request(api: u8, request: &[u8]) -> Vec<u8> {
    let mut body = vec![0, api, 0, 1];
    body.extend([0; 20]);
    body.extend(u32::try_from(request.len()).unwrap_or(0).to_be_bytes());
    body.extend(request);
    frame(3, &body)
}
