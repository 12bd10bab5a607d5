//! The ceilings of QUIC: one raw quinn stream between two processes, with the settings of
//! `core/net` (windows, socket buffers, cipher, segmentation offload) and no other code.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use millstream_cli::{Schedule, Timer, Usage};
use millstream_env::clock::{Clock as _, SystemClock};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig,
    RecvStream, SendStream, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Makes this executable the other process; its value is the server's certificate and key.
const ROLE: &str = "MILLSTREAM_BENCH_QUIC_SERVER";
const CHUNK_BYTES: usize = 1024 * 1024;
/// The most that one paced write sends, after a stall.
const PACED_PIECE_BYTES_MAX: usize = 256 * 1024;
const ALPN: &[u8] = b"millstream-bench/1";

/// What one run over a stream did.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stream {
    /// Millions of bytes a second.
    pub mb_per_second: f64,
    /// The sender's processor seconds for each 10^9 bytes.
    pub sender_cpu_seconds_per_gb: f64,
    /// The receiver's processor seconds for each 10^9 bytes.
    pub receiver_cpu_seconds_per_gb: f64,
}

/// Round trips of one size.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PingPong {
    /// Bytes each way.
    pub bytes: usize,
    /// Microseconds.
    pub p50_us: f64,
    /// Microseconds.
    pub p99_us: f64,
    /// Microseconds.
    pub p999_us: f64,
}

/// What the client asks of the server, as the first line of a stream.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// Send so many bytes.
    Download(u64),
    /// Read to the end, then say one byte.
    Upload,
    /// Send back each message of so many bytes.
    Echo(usize),
    /// Send back what comes, as it comes.
    Relay,
}

/// The server's keys, handed to the other process.
#[derive(Debug, Serialize, Deserialize)]
struct Keys {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// 10^9 bytes, for rates.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for rates that are shown to people")]
pub fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// If this process was started to be the server: serves until standard input ends, and returns
/// true. Call it first in `main`.
///
/// # Errors
/// The endpoint cannot be made.
pub fn serve_if_asked() -> Result<bool> {
    let Ok(keys) = std::env::var(ROLE) else { return Ok(false) };
    let keys: Keys = serde_json::from_str(&keys).context("keys")?;
    runtime()?.block_on(serve(keys))?;
    Ok(true)
}

/// The other process, connected.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    endpoint: Endpoint,
    connection: Connection,
    runtime: tokio::runtime::Runtime,
}

impl Peer {
    /// Starts this executable again as the server, pinned to `cpus` where given, and connects.
    ///
    /// # Errors
    /// The process cannot be started, or the connection fails.
    pub fn start(cpus: Option<&str>) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let certificate = made.cert.der().to_vec();
        let keys = Keys { certificate: certificate.clone(), key: made.signing_key.serialize_der() };
        let executable = std::env::current_exe().context("cannot find this executable")?;
        let mut command = match cpus {
            Some(cpus) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cpus]).arg(executable);
                command
            }
            None => Command::new(executable),
        };
        let mut child = command
            .env(ROLE, serde_json::to_string(&keys)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the other process")?;
        let stdout = child.stdout.take().context("the other process says nothing")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let port: u16 = line.trim().parse().context("the other process named no port")?;
        let runtime = runtime()?;
        let (endpoint, connection) = runtime.block_on(connect(port, certificate))?;
        Ok(Self { child, endpoint, connection, runtime })
    }

    /// The other process sends `bytes` here.
    ///
    /// # Errors
    /// The stream fails.
    pub fn download(&self, bytes: u64) -> Result<Stream> {
        let (began, clock) = (self.usage(), SystemClock::new());
        self.runtime.block_on(async {
            let (_send, mut recv) = self.ask(&Ask::Download(bytes)).await?;
            let read = read_all(&mut recv).await?;
            ensure!(read == bytes, "{read} of {bytes} bytes came");
            Ok(())
        })?;
        let ended = self.usage();
        Ok(Stream {
            mb_per_second: gigabytes(bytes) * 1000.0 / clock.monotonic().as_secs_f64(),
            sender_cpu_seconds_per_gb: (ended.1 - began.1) / gigabytes(bytes),
            receiver_cpu_seconds_per_gb: (ended.0 - began.0) / gigabytes(bytes),
        })
    }

    /// Sends `bytes` to the other process.
    ///
    /// # Errors
    /// The stream fails.
    pub fn upload(&self, bytes: u64) -> Result<Stream> {
        let (began, clock) = (self.usage(), SystemClock::new());
        self.runtime.block_on(async {
            let (mut send, mut recv) = self.ask(&Ask::Upload).await?;
            send_all(&mut send, bytes).await?;
            let mut said = [0];
            recv.read_exact(&mut said).await.context("no answer")
        })?;
        let ended = self.usage();
        Ok(Stream {
            mb_per_second: gigabytes(bytes) * 1000.0 / clock.monotonic().as_secs_f64(),
            sender_cpu_seconds_per_gb: (ended.0 - began.0) / gigabytes(bytes),
            receiver_cpu_seconds_per_gb: (ended.1 - began.1) / gigabytes(bytes),
        })
    }

    /// `count` messages of `bytes`, each sent when the one before came back.
    ///
    /// # Errors
    /// The stream fails.
    pub fn ping_pong(&self, bytes: usize, count: u32) -> Result<PingPong> {
        let mut round_trips = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3)?;
        self.runtime.block_on(async {
            let (mut send, mut recv) = self.ask(&Ask::Echo(bytes)).await?;
            let message = vec![7; bytes];
            let mut echo = vec![0; bytes];
            let clock = SystemClock::new();
            for number in 0..count + count / 10 {
                let began = clock.monotonic();
                send.write_all(&message).await.context("cannot send")?;
                recv.read_exact(&mut echo).await.context("no echo")?;
                let round_trip = clock.monotonic() - began;
                // The first tenth warms up.
                if number >= count / 10 {
                    let ns = u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX);
                    round_trips.saturating_record(ns);
                }
            }
            anyhow::Ok(())
        })?;
        let us = |quantile| gigabytes(round_trips.value_at_quantile(quantile)) * 1e6;
        Ok(PingPong { bytes, p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999) })
    }

    /// Messages of `bytes` that come due as the records of an open-loop load do, `rate` a second
    /// for `duration`, and come back on the same stream; the first `warmup` is not counted. What
    /// a stream that does nothing else makes of the same pace: from when each was due until it is
    /// back.
    ///
    /// # Errors
    /// The stream fails, or what comes back is not what was sent.
    pub fn paced(
        &self,
        bytes: usize,
        rate: u64,
        duration: Duration,
        warmup: Duration,
    ) -> Result<PingPong> {
        ensure!(bytes >= 8, "a message carries 8 bytes of time");
        let mut latencies = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3)?;
        let clock = SystemClock::new();
        self.runtime.block_on(async {
            let (send, recv) = self.ask(&Ask::Relay).await?;
            let sending = send_paced(send, bytes, rate, duration, &clock);
            let receiving = read_stamps(recv, bytes, warmup, &clock, &mut latencies);
            tokio::try_join!(sending, receiving)
        })?;
        let us = |quantile| gigabytes(latencies.value_at_quantile(quantile)) * 1e6;
        Ok(PingPong { bytes, p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999) })
    }

    async fn ask(&self, ask: &Ask) -> Result<(SendStream, RecvStream)> {
        let (mut send, recv) = self.connection.open_bi().await.context("cannot open a stream")?;
        let mut line = serde_json::to_vec(ask)?;
        line.resize(ASK_BYTES, b' ');
        send.write_all(&line).await.context("cannot ask")?;
        Ok((send, recv))
    }

    /// Processor seconds of this process and of the other.
    fn usage(&self) -> (f64, f64) {
        let seconds = |usage: Option<Usage>| usage.unwrap_or_default().cpu_seconds;
        (seconds(Usage::own()), seconds(Usage::of(self.child.id())))
    }

    /// Ends the other process.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn stop(mut self) -> Result<()> {
        self.connection.close(VarInt::from_u32(0), b"done");
        self.runtime.block_on(self.endpoint.wait_idle());
        // The end of its input is the sign to end.
        drop(self.child.stdin.take());
        self.child.wait().context("cannot wait for the other process")?;
        Ok(())
    }
}

/// A question is one line of JSON, filled up with spaces.
const ASK_BYTES: usize = 64;

async fn serve(keys: Keys) -> Result<()> {
    let key = PrivatePkcs8KeyDer::from(keys.key);
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(keys.certificate)], key.into())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    let endpoint = bind(Some(config))?;
    say(endpoint.local_addr()?.port())?;
    let input_ended = tokio::task::spawn_blocking(|| {
        let mut rest = String::new();
        std::io::stdin().lock().read_line(&mut rest)
    });
    let served = async {
        while let Some(incoming) = endpoint.accept().await {
            let connection = incoming.await.context("handshake")?;
            while let Ok((send, recv)) = connection.accept_bi().await {
                // One after the other: a benchmark asks for one thing at a time.
                answer(send, recv).await?;
            }
        }
        Ok(())
    };
    tokio::select! {
        result = served => result,
        _ = input_ended => Ok(()),
    }
}

#[expect(clippy::print_stdout, reason = "how the two processes find each other")]
fn say(port: u16) -> Result<()> {
    use std::io::Write as _;
    println!("{port}");
    std::io::stdout().flush().context("cannot name the port")
}

async fn answer(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let mut line = [0; ASK_BYTES];
    recv.read_exact(&mut line).await.context("no question")?;
    match serde_json::from_slice(&line)? {
        Ask::Download(bytes) => send_all(&mut send, bytes).await,
        Ask::Upload => {
            read_all(&mut recv).await?;
            send.write_all(&[1]).await.context("cannot answer")
        }
        Ask::Echo(bytes) => {
            let mut message = vec![0; bytes];
            while recv.read_exact(&mut message).await.is_ok() {
                send.write_all(&message).await.context("cannot echo")?;
            }
            Ok(())
        }
        Ask::Relay => {
            let mut chunks: Vec<Bytes> = vec![Bytes::new(); 32];
            while let Some(count) = recv.read_chunks(&mut chunks).await.context("cannot receive")? {
                send.write_all_chunks(&mut chunks[..count]).await.context("cannot relay")?;
            }
            send.finish().context("cannot finish")
        }
    }
}

/// Sends messages when they are due, each beginning with that time in nanoseconds; those that are
/// due together in one piece, as a producer's batch is.
async fn send_paced(
    mut send: SendStream,
    bytes: usize,
    rate: u64,
    duration: Duration,
    clock: &SystemClock,
) -> Result<()> {
    let schedule = Schedule::new(Some(rate), clock.monotonic(), 0, 1);
    let ends_at = clock.monotonic() + duration;
    let mut timer = Timer::new()?;
    let mut number = 0;
    loop {
        let now = clock.monotonic();
        let due = schedule.due(number, now);
        if due >= ends_at {
            return send.finish().context("cannot finish");
        }
        if due > now {
            timer.wait(due - now).await?;
            continue;
        }
        let mut piece = Vec::with_capacity(16 * bytes);
        while piece.len() < PACED_PIECE_BYTES_MAX && schedule.due(number, now) <= now {
            let due_ns = u64::try_from(schedule.due(number, now).as_nanos())?;
            let at = piece.len();
            piece.extend_from_slice(&due_ns.to_le_bytes());
            piece.resize(at + bytes, 0x5a);
            number += 1;
        }
        send.write_chunk(piece.into()).await.context("cannot send")?;
    }
}

/// Reads what [`send_paced`] sent, to its end.
async fn read_stamps(
    mut recv: RecvStream,
    bytes: usize,
    warmup: Duration,
    clock: &SystemClock,
    latencies: &mut Histogram<u64>,
) -> Result<()> {
    let counted_from = clock.monotonic() + warmup;
    let mut message = vec![0; bytes];
    let mut length = 0;
    let mut chunks: Vec<Bytes> = vec![Bytes::new(); 32];
    while let Some(count) = recv.read_chunks(&mut chunks).await.context("cannot receive")? {
        let now = clock.monotonic();
        for chunk in &mut chunks[..count] {
            let mut rest = std::mem::take(chunk);
            while !rest.is_empty() {
                let part = rest.split_to(rest.len().min(bytes - length));
                message[length..length + part.len()].copy_from_slice(&part);
                length += part.len();
                if length == bytes {
                    length = 0;
                    let mut stamp = [0; 8];
                    stamp.copy_from_slice(&message[..8]);
                    let due = Duration::from_nanos(u64::from_le_bytes(stamp));
                    if due >= counted_from {
                        let late = now.saturating_sub(due).as_nanos();
                        latencies.saturating_record(u64::try_from(late).unwrap_or(u64::MAX));
                    }
                }
            }
        }
    }
    ensure!(length == 0, "a message came back in part");
    Ok(())
}

async fn send_all(send: &mut SendStream, bytes: u64) -> Result<()> {
    let chunk = Bytes::from(vec![0x5a_u8; CHUNK_BYTES]);
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        send.write_chunk(chunk.slice(..length)).await.context("cannot send")?;
        left -= length as u64;
    }
    send.finish().context("cannot finish")
}

async fn read_all(recv: &mut RecvStream) -> Result<u64> {
    let mut chunks: Vec<Bytes> = vec![Bytes::new(); 32];
    let mut bytes = 0;
    while let Some(count) = recv.read_chunks(&mut chunks).await.context("cannot receive")? {
        for chunk in &mut chunks[..count] {
            bytes += chunk.len() as u64;
            *chunk = Bytes::new();
        }
    }
    Ok(bytes)
}

async fn connect(port: u16, certificate: Vec<u8>) -> Result<(Endpoint, Connection)> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(certificate))?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let endpoint = bind(None)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connecting = endpoint.connect_with(config, address, "localhost")?;
    let connection = tokio::time::timeout(Duration::from_secs(10), connecting).await;
    let Ok(connection) = connection else { bail!("the other process does not answer") };
    Ok((endpoint, connection.context("handshake")?))
}

/// As `core/net/src/transport.rs` sets it.
fn transport() -> Arc<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(1452);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(256 * 1024);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10))
        .max_ack_delay(Some(Duration::from_millis(2)));
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(Arc::new(congestion))
        .ack_frequency_config(Some(acks))
        .stream_receive_window(VarInt::from_u32(4 * 1024 * 1024))
        .receive_window(VarInt::from_u32(64 * 1024 * 1024))
        .send_window(16 * 1024 * 1024)
        .mtu_discovery_config(Some(discovery))
        .enable_segmentation_offload(true);
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(provider)
}

fn bind(server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(4 * 1024 * 1024)?;
    socket.set_send_buffer_size(4 * 1024 * 1024)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let config = EndpointConfig::default();
    Ok(Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime))?)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("cannot start the runtime")
}
