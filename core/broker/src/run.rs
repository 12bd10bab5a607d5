//! A broker's life: prepare the directory, start the quorum, open the partitions, serve, and end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millstream_env::clock::{Clock, SystemClock};
use millstream_env::disk::{Disk, FileDisk, FileDiskConfig};
use millstream_log::{LogShared, SharedLimits};
use millstream_meta::{Command, CommandBody, CommandId, Endpoint};
use millstream_net::server::{BindError, Server, ServerConfig};
use millstream_net::transport::TransportOptions;
use millstream_quorum::{Quorum, QuorumConfig, QuorumError};
use millstream_service::ServiceError;
use millstream_tiered::StoreError;
use millstream_types::{BrokerId, ClusterId, DirectoryId, ErrorCode, TimestampMs};
use tokio::sync::Semaphore;

use crate::admin::propose;
use crate::archive::{self, Archives, Pace};
use crate::certificates::{self, CertificateError};
use crate::config::{Advertised, BrokerConfig, ConfigError};
use crate::directory::{self, DirectoryError, Identity};
use crate::fence::Fence;
use crate::ids::Ids;
use crate::partitions::{Partitions, PartitionsConfig};
use crate::read_memory::ReadMemory;
use crate::replies;
use crate::service::BrokerService;
use crate::stats::{Metrics, Stats};

/// Where the quorum keeps its log below the data directory.
const META_DIR: &str = "meta";

/// Why a broker did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error("data directory {dir}: {source}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: DirectoryError,
    },
    /// The metadata quorum cannot start or failed.
    #[error("the metadata quorum: {0}")]
    Quorum(#[from] QuorumError),
    /// This broker could not be registered with the cluster.
    #[error("the broker could not be registered: {0}")]
    Registration(String),
    /// Certificates are missing or unusable.
    #[error("certificates: {0}")]
    Certificates(#[from] CertificateError),
    /// The archive's store cannot hold an archive.
    #[error("the archive: {0}")]
    Archive(#[from] StoreError),
    /// The front cannot listen.
    #[error("{0}. Is another broker running? Choose another address with --listen")]
    Listen(#[from] BindError),
    /// A runtime or signal handler cannot be set up.
    #[error("the operating system refuses: {0}")]
    System(#[from] std::io::Error),
    /// A repair found damage; the fence stays.
    #[error(
        "{count} partitions are damaged, the first: {first}. The broker's log names each. Restore \
         those files from a copy, then run --repair again; or give their records up by deleting \
         their directories: those partitions then begin at offset 0 again"
    )]
    Damaged {
        /// How many partitions.
        count: usize,
        /// What is wrong with the first.
        first: String,
    },
    /// A sync failed: what is on the disk is unknown.
    #[error(
        "stopped, since a sync failed and what the disk holds is unknown: {reason}. Check the \
         disk, then start once with --repair"
    )]
    Fenced {
        /// What failed.
        reason: String,
    },
}

/// Tasks that a network thread polls before it looks at its socket again, and at what other threads
/// want of it. While a consumer takes all that there is, its connection is always ready for more:
/// at tokio's 61 polls the others wait for milliseconds at every step of theirs.
const POLLS_PER_LOOK: u32 = 4;

/// A broker that takes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The address of the QUIC front.
    pub quic: SocketAddr,
    /// What clients pass as `--ca`.
    pub ca_file: PathBuf,
    /// The data directory.
    pub dir: PathBuf,
}

/// Runs a broker until `stop` completes, calling `ready` once it takes requests. `repair` lifts the
/// fence that a failed sync left behind, after reading every log from the device again.
///
/// # Errors
/// [`RunError`]; each says what to do.
pub fn run(
    config: &BrokerConfig,
    repair: bool,
    ready: impl FnOnce(&Ready),
    stop: impl AsyncFnOnce(),
) -> Result<(), RunError> {
    let threads = network_threads(config);
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    };
    builder.event_interval(POLLS_PER_LOOK).global_queue_interval(POLLS_PER_LOOK);
    let runtime =
        builder.enable_all().max_blocking_threads(config.storage.read_threads + 4).build()?;
    let (disk, identity) = open_directory(config, repair)?;
    let ended = runtime.block_on(async {
        let broker = Broker::start(config, repair, &disk, identity).await?;
        ready(&broker.ready);
        broker.serve(stop(), Duration::from_millis(config.broker.shutdown_grace_ms)).await
    });
    // Whatever it was that met the failed sync: a partition, the metadata, or the start itself.
    match disk.fence_reason() {
        None => ended,
        Some(reason) => {
            directory::leave_fence(&config.broker.dir, &reason);
            Err(RunError::Fenced { reason: reason.to_string() })
        }
    }
}

/// What replays may take beside producers: so much for each network thread.
fn pace(config: &BrokerConfig) -> Pace {
    let threads = network_threads(config) as u64;
    Pace::new(config.archive.replay_bytes_per_second.saturating_mul(threads))
}

fn network_threads(config: &BrokerConfig) -> usize {
    match config.broker.network_threads {
        0 => (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1),
        threads => threads,
    }
}

/// Everything that runs.
struct Broker {
    ready: Ready,
    server: Server<BrokerService>,
    quorum: Arc<Quorum>,
    partitions: Arc<Partitions>,
    archives: Arc<Archives>,
    fence: Fence,
    maintenance_interval: Duration,
}

impl Broker {
    async fn start(
        config: &BrokerConfig,
        repair: bool,
        disk: &Arc<FileDisk>,
        identity: Identity,
    ) -> Result<Self, RunError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let fence = Fence::new();
        let stats = Arc::new(Stats::default());

        let quorum_config = QuorumConfig::new(identity.broker, META_DIR);
        let init = first_command(&identity, clock.wall()).map_err(registration)?;
        let quorum_disk = Arc::clone(disk) as Arc<dyn Disk>;
        let quorum = Arc::new(Quorum::start(quorum_disk, quorum_config, || vec![init]).await?);
        let archives = Arc::new(Archives::new(
            &config.archive,
            &config.broker.dir,
            identity.cluster,
            Arc::clone(&clock),
            Arc::clone(&quorum),
            pace(config),
        ));
        archives.start().await?;
        let mut partitions_config =
            partitions_config(config, &identity, disk, &clock, &fence, &archives);
        partitions_config.verify = repair;
        let partitions = Arc::new(Partitions::new(partitions_config));

        let read_memory = ReadMemory::new(config.storage.read_bytes_max);
        let mut metrics = metrics(&stats, disk, &partitions, &archives, &read_memory);

        let advertised_host = config.listen.advertised().map(|at| at.bare_host().to_owned());
        let certificates = certificates::prepare(
            &config.broker.dir,
            &config.tls,
            advertised_host,
            identity.cluster,
            clock.wall(),
            random_key().map_err(registration)?,
        )?;
        let service = Arc::new(BrokerService {
            broker: identity.broker,
            quorum: Arc::clone(&quorum),
            partitions: Arc::clone(&partitions),
            archives: Arc::clone(&archives),
            restores: Arc::default(),
            clock: Arc::clone(&clock),
            ids: Ids::default(),
            stats,
            read_memory,
            builds: Arc::new(Semaphore::new(replies::BUILDS_MAX)),
            metrics: OnceLock::new(),
        });
        let server_config =
            server_config(config, &identity, certificates.tls, certificates.reset_key);
        let server = Server::bind(server_config, Arc::clone(&service))?;
        let quic = server.local_addr();
        let front = server.counters();
        metrics.add_counters(move || front.snapshot());
        // Set once, here.
        let _first = service.metrics.set(metrics);
        register(&quorum, &identity, config, quic, clock.wall()).await?;

        let state = quorum.state();
        let sweep = (Arc::clone(&partitions), Arc::clone(&state));
        let swept = tokio::task::spawn_blocking(move || sweep.0.remove_orphans(&sweep.1)).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "deleted topics' data was not looked for");
        }
        partitions.reconcile(state).await;
        if repair {
            finish_repair(config, &**disk, &partitions)?;
        }

        let dir = absolute(&config.broker.dir);
        let ready = Ready { quic, ca_file: absolute(&certificates.ca_file), dir };
        let maintenance_interval = Duration::from_millis(config.storage.maintenance_interval_ms);
        Ok(Self { ready, server, quorum, partitions, archives, fence, maintenance_interval })
    }

    async fn serve(self, stop: impl Future<Output = ()>, grace: Duration) -> Result<(), RunError> {
        let maintenance =
            tokio::spawn(maintain(Arc::clone(&self.partitions), self.maintenance_interval));
        let archiving =
            tokio::spawn(archive::run(Arc::clone(&self.archives), Arc::clone(&self.partitions)));
        let serving = async {
            let shut_down = async {
                stop.await;
                tracing::info!("shutting down");
                self.server.shutdown(grace).await;
            };
            tokio::join!(self.server.run(), shut_down);
        };
        tokio::select! {
            () = serving => {}
            // Nothing that is in memory may be promised to anyone any more.
            reason = self.fence.raised() => {
                return Err(RunError::Fenced { reason: reason.to_string() });
            }
            failure = self.quorum.failure() => return Err(failure.into()),
        }
        maintenance.abort();
        archiving.abort();
        // What it holds of the quorum goes with it.
        let _aborted = archiving.await;
        let leaving = ServiceError::new(ErrorCode::Unavailable, "the broker is shutting down");
        let partitions = Arc::clone(&self.partitions);
        let stopped = tokio::task::spawn_blocking(move || partitions.stop_all(&leaving)).await;
        if let Err(error) = stopped {
            tracing::warn!(%error, "some logs were not closed");
        }
        drop(self.server);
        // The service held the other reference; without it the quorum ends as by a crash, which
        // loses nothing.
        if let Ok(quorum) = Arc::try_unwrap(self.quorum) {
            quorum.shutdown().await;
        }
        Ok(())
    }
}

/// Lifts the fence if every partition was read again without a fault.
fn finish_repair(
    config: &BrokerConfig,
    disk: &dyn Disk,
    partitions: &Partitions,
) -> Result<(), RunError> {
    let damaged = partitions.stopped();
    if !damaged.is_empty() {
        return Err(RunError::Damaged { count: damaged.len(), first: damaged[0].message.clone() });
    }
    let dir = config.broker.dir.clone();
    directory::lift_fence(disk).map_err(|source| RunError::Directory { dir, source })
}

/// What every partition shares.
fn partitions_config(
    config: &BrokerConfig,
    identity: &Identity,
    disk: &Arc<FileDisk>,
    clock: &Arc<dyn Clock>,
    fence: &Fence,
    archives: &Arc<Archives>,
) -> PartitionsConfig {
    PartitionsConfig {
        archives: Arc::clone(archives),
        broker: identity.broker,
        disk: Arc::clone(disk) as Arc<dyn Disk>,
        clock: Arc::clone(clock),
        fence: fence.clone(),
        shared: LogShared::new(SharedLimits {
            tail_bytes_max: config.storage.tail_cache_bytes,
            ..SharedLimits::default()
        }),
        verify: false,
        tail_partition_bytes: config.storage.tail_cache_partition_bytes,
        open_threads: config.storage.read_threads,
    }
}

/// What the broker reports of itself; the front's counters come once it is bound.
fn metrics(
    stats: &Arc<Stats>,
    disk: &Arc<FileDisk>,
    partitions: &Arc<Partitions>,
    archives: &Arc<Archives>,
    read_memory: &Arc<ReadMemory>,
) -> Metrics {
    let mut metrics = Metrics::new(Arc::clone(stats));
    add_disk_metrics(&mut metrics, disk);
    let led = Arc::clone(partitions);
    metrics.add_gauges(move || vec![("partitions_led", led.len() as u64)]);
    let counted = Arc::clone(archives);
    metrics.add_counters(move || counted.counters());
    let measured = Arc::clone(archives);
    metrics.add_gauges(move || measured.gauges());
    let measured = Arc::clone(read_memory);
    metrics.add_gauges(move || measured.gauges());
    metrics
}

fn add_disk_metrics(metrics: &mut Metrics, disk: &Arc<FileDisk>) {
    let counted = Arc::clone(disk);
    metrics.add_counters(move || {
        let stats = counted.stats();
        vec![
            ("disk_writes_total", stats.writes),
            ("disk_written_bytes_total", stats.bytes_written),
            ("disk_syncs_total", stats.syncs),
            ("disk_sync_nanoseconds_total", stats.sync_ns_sum),
        ]
    });
    let measured = Arc::clone(disk);
    metrics.add_gauges(move || {
        let stats = measured.stats();
        vec![
            ("disk_files_open", stats.files_open),
            ("disk_sync_nanoseconds_max", stats.sync_ns_max),
        ]
    });
}

/// Opens the data directory and finds out whose it is.
fn open_directory(
    config: &BrokerConfig,
    repair: bool,
) -> Result<(Arc<FileDisk>, Identity), RunError> {
    let dir = config.broker.dir.clone();
    let failed = |source: DirectoryError| RunError::Directory { dir: dir.clone(), source };
    let disk_config = FileDiskConfig {
        open_files_max: config.storage.open_files_max,
        inline_write_bytes_max: config.storage.inline_write_bytes_max,
        ..FileDiskConfig::default()
    };
    let disk = Arc::new(
        FileDisk::open_root(&config.broker.dir, &disk_config)
            .map_err(|error| failed(error.into()))?,
    );
    if repair {
        disk.drop_page_cache().map_err(|error| failed(error.into()))?;
    } else {
        directory::check_fence(&*disk).map_err(failed)?;
    }
    let random = || Ids::random().unwrap_or_default();
    let identity = directory::identify(&*disk, BrokerId(config.broker.id), || {
        (ClusterId::from_bytes(random()), DirectoryId::from_bytes(random()))
    });
    Ok((disk, identity.map_err(failed)?))
}

/// Tells the cluster that this broker is up, and where. Its partitions get a new leader epoch.
async fn register(
    quorum: &Quorum,
    identity: &Identity,
    config: &BrokerConfig,
    quic: SocketAddr,
    now: TimestampMs,
) -> Result<(), RunError> {
    let register = CommandBody::RegisterBroker {
        broker: identity.broker,
        endpoints: vec![endpoint(config.listen.advertised().as_ref(), quic)],
        directories: vec![identity.directory],
    };
    let id = CommandId(u128::from_be_bytes(Ids::random().map_err(registration)?));
    propose(quorum, Command::new(id, now, register)).await.map_err(registration)?;
    Ok(())
}

/// The command that gives an empty cluster its identity.
fn first_command(identity: &Identity, now: TimestampMs) -> Result<Command, ServiceError> {
    let id = CommandId(u128::from_be_bytes(Ids::random()?));
    let body = CommandBody::InitCluster {
        cluster: identity.cluster,
        format: millstream_meta::FORMAT_VERSION,
    };
    Ok(Command::new(id, now, body))
}

fn random_key() -> Result<[u8; 32], ServiceError> {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&Ids::random()?);
    key[16..].copy_from_slice(&Ids::random()?);
    Ok(key)
}

fn registration(error: ServiceError) -> RunError {
    RunError::Registration(error.message)
}

/// Where clients are told to find this broker.
fn endpoint(advertised: Option<&Advertised>, quic: SocketAddr) -> Endpoint {
    let (host, port) = match advertised {
        Some(at) => (at.host.clone(), at.port.unwrap_or(quic.port())),
        None if quic.is_ipv6() => (format!("[{}]", quic.ip()), quic.port()),
        None => (quic.ip().to_string(), quic.port()),
    };
    Endpoint { front: "quic".to_owned(), host, port }
}

fn server_config(
    config: &BrokerConfig,
    identity: &Identity,
    tls: millstream_net::tls::ServerTls,
    reset_key: millstream_net::ResetKey,
) -> ServerConfig {
    let limits = &config.limits;
    ServerConfig {
        reset_key: Some(reset_key),
        connections_max: limits.connections_max,
        connections_per_address_max: limits.connections_per_address_max,
        window_bytes_max: limits.window_bytes_max,
        handshake_timeout: Duration::from_millis(limits.handshake_timeout_ms),
        transport: TransportOptions {
            mtu_bytes_max: config.listen.mtu_max,
            idle_timeout: Duration::from_millis(limits.idle_timeout_ms),
            streams_max: limits.streams_per_connection_max,
            ..TransportOptions::default()
        },
        ..ServerConfig::new(config.listen.quic, tls, identity.cluster, identity.broker)
    }
}

/// Looks at every partition now and then: retention, roll by time, idle producers.
async fn maintain(partitions: Arc<Partitions>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let partitions = Arc::clone(&partitions);
        let done = tokio::task::spawn_blocking(move || {
            for handle in partitions.all() {
                // A stopped partition needs no care, and a failing disk was logged.
                let _stopped = handle.maintain();
            }
        });
        if let Err(error) = done.await {
            tracing::error!(%error, "maintenance ended early");
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
