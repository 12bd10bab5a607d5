//! The operator's knobs: defaults, then a TOML file, then `MILLSTREAM_SECTION__KEY` from the
//! environment, then what the command line says. Every key carries its unit in its name and is
//! checked against the hard limits before the broker starts.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use millstream_types::limits::{
    BATCH_BYTES_MAX, CONNECTION_STREAMS_MAX, CONNECTION_WINDOW_BYTES_MAX, READ_BYTES_MIN,
};
use serde::{Deserialize, Serialize};

/// The prefix of environment variables that set config keys.
pub const ENV_PREFIX: &str = "MILLSTREAM_";

/// Why a config cannot be used. Each message says which key and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The config file cannot be read.
    #[error("cannot read the config file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A key is unknown or a value has the wrong type.
    #[error("{origin}: {message}")]
    Malformed {
        /// The file, variable or flag at fault.
        origin: String,
        /// What is wrong with it.
        message: String,
    },
    /// A value is out of range.
    #[error("config key {key} = {value}: {rule}")]
    OutOfRange {
        /// The key, with its section.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        rule: String,
    },
}

/// Everything that an operator may set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// Who this broker is and where it keeps its data.
    pub broker: BrokerSection,
    /// Where it listens.
    pub listen: ListenSection,
    /// Certificates and who may connect.
    pub tls: TlsSection,
    /// Disk and memory.
    pub storage: StorageSection,
    /// Bounds on clients.
    pub limits: LimitsSection,
    /// Where and how topics are archived.
    pub archive: ArchiveSection,
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerSection {
    /// The data directory.
    pub dir: PathBuf,
    /// This broker's id in its cluster; written into a new data directory, then checked.
    pub id: u32,
    /// Threads that run the fronts. 0 chooses: half the cores, at least one. One thread has the
    /// lowest latency, since a wake-up of another core costs more than most requests.
    pub network_threads: usize,
    /// How long a shutdown waits for requests in flight.
    pub shutdown_grace_ms: u64,
}

impl Default for BrokerSection {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("./millstream-data"),
            id: 1,
            network_threads: 0,
            shutdown_grace_ms: 5_000,
        }
    }
}

/// `[listen]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    /// The QUIC front's address, UDP. Port 0 takes a free one.
    pub quic: SocketAddr,
    /// The endpoint that clients are told to use, `host:port`; empty for the listen address.
    pub advertised: String,
    /// The largest UDP payload to try: 1452 fits every network; up to 6500 where every hop takes
    /// jumbo frames.
    pub mtu_max: u16,
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            quic: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9092),
            advertised: String::new(),
            mtu_max: 1452,
        }
    }
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSection {
    /// A certificate chain of your own, PEM. Without it the cluster's own CA issues one.
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`, PEM.
    pub key_file: Option<PathBuf>,
    /// Clients must show a certificate of this CA, PEM. `"cluster"` names the cluster's own.
    pub client_ca_file: Option<PathBuf>,
    /// More host names and addresses for the certificate that the cluster's CA issues.
    pub names: Vec<String>,
    /// Listen beyond loopback without asking clients who they are.
    pub insecure: bool,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// Descriptors that the disk keeps open, whatever the number of partitions.
    pub open_files_max: usize,
    /// Memory for the newest batches of all partitions, from which the tail is served.
    pub tail_cache_bytes: u64,
    /// The share of it that one partition may take.
    pub tail_cache_partition_bytes: u64,
    /// Memory for older data on its way to consumers, all of them together; at least
    /// [`READ_BYTES_MIN`].
    pub read_bytes_max: usize,
    /// Writes up to this many bytes are done by the thread that received them; larger ones by the
    /// disk's own, so that the network never waits for them.
    pub inline_write_bytes_max: usize,
    /// Threads that read older data for consumers.
    pub read_threads: usize,
    /// How often retention, roll by time and the like are looked at.
    pub maintenance_interval_ms: u64,
}

impl Default for StorageSection {
    fn default() -> Self {
        Self {
            open_files_max: 512,
            tail_cache_bytes: 256 * 1024 * 1024,
            tail_cache_partition_bytes: 16 * 1024 * 1024,
            read_bytes_max: 256 * 1024 * 1024,
            inline_write_bytes_max: 64 * 1024,
            read_threads: 8,
            maintenance_interval_ms: 30_000,
        }
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address.
    pub connections_per_address_max: usize,
    /// Streams on one connection: produce sessions, subscriptions and requests together.
    pub streams_per_connection_max: u32,
    /// Bytes that QUIC's receive windows of all connections may come to, and a quarter more for
    /// their send windows. Beyond it each connection has 128 KiB of both.
    pub window_bytes_max: u64,
    /// How long a client may take from its first packet to its Hello.
    pub handshake_timeout_ms: u64,
    /// A connection that says nothing for so long is closed.
    pub idle_timeout_ms: u64,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 1_000,
            streams_per_connection_max: 2_048,
            window_bytes_max: 1024 * 1024 * 1024,
            handshake_timeout_ms: 5_000,
            idle_timeout_ms: 30_000,
        }
    }
}

/// `[archive]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveSection {
    /// A directory, or `s3://bucket/prefix` with credentials from the usual `AWS_` variables.
    /// Empty for `archive` in the data directory.
    pub location: String,
    /// The S3 endpoint, for stores that are not AWS. Empty for `AWS_ENDPOINT_URL` or AWS itself.
    pub s3_endpoint: String,
    /// The S3 region. Empty for `AWS_REGION`.
    pub s3_region: String,
    /// Name the bucket in the path, as most stores that are not AWS want it, rather than in the
    /// host name.
    pub s3_path_style: bool,
    /// Batches of a partition that make one object, as the log holds them. One is held in memory
    /// for each upload, with its encoded form.
    pub range_bytes_max: u64,
    /// Objects that are encoded and uploaded at once.
    pub uploads_max: usize,
    /// How often partitions are looked at.
    pub interval_ms: u64,
    /// Memory for what was read from the archive.
    pub cache_bytes: usize,
    /// What replays out of the archive may take together, in bytes a second for each network
    /// thread, while records are being produced; 0: as fast as they can. While nothing is produced
    /// there is no bound.
    pub replay_bytes_per_second: u64,
    /// Files in the data directory for ranges of objects that were read from a bucket; 0: none. A
    /// directory's objects need none.
    pub disk_cache_bytes_max: u64,
    /// How long an object that nothing names any more stays, for readers that are still at it, and
    /// how long a deleted topic's objects stay. Longer than any upload takes.
    pub grace_ms: u64,
    /// What may wait to be archived, over all partitions. Beyond it archived topics take no more,
    /// since the disk would fill up; what waits is never deleted.
    pub backlog_bytes_max: u64,
}

impl Default for ArchiveSection {
    fn default() -> Self {
        Self {
            location: String::new(),
            s3_endpoint: String::new(),
            s3_region: String::new(),
            s3_path_style: true,
            range_bytes_max: 32 * 1024 * 1024,
            uploads_max: 1,
            interval_ms: 1_000,
            cache_bytes: 128 * 1024 * 1024,
            replay_bytes_per_second: 64 * 1024 * 1024,
            disk_cache_bytes_max: 1024 * 1024 * 1024,
            grace_ms: 3_600_000,
            backlog_bytes_max: 64 * 1024 * 1024 * 1024,
        }
    }
}

/// An endpoint as the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advertised {
    /// A host name or address; IPv6 in brackets.
    pub(crate) host: String,
    /// `None` for the port listened on.
    pub(crate) port: Option<u16>,
}

impl Advertised {
    /// The host as certificates have it.
    pub(crate) fn bare_host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        let bracketed = text.starts_with('[');
        let (host, port) = match text.rsplit_once(':') {
            Some((host, _)) if bracketed && !host.ends_with(']') => (text, None),
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        let named = !host.is_empty() && (bracketed || !host.contains(':'));
        named.then(|| Self { host: host.to_owned(), port })
    }
}

impl ListenSection {
    /// What clients are told to use instead of the listen address.
    pub(crate) fn advertised(&self) -> Option<Advertised> {
        Advertised::parse(&self.advertised)
    }
}

impl BrokerConfig {
    /// Reads the layers in order and checks the result. `file` may be absent; `env` is the
    /// process's environment; `overrides` are `section.key = value` pairs from the command line.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, variable or key and says what is expected.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut table = match file {
            Some(path) => read_file(path)?,
            None => toml::Table::new(),
        };
        check_shape(&table, || file.map_or_else(String::new, |path| path.display().to_string()))?;
        for (name, value) in env {
            // Variables without a section belong to the command line, not to this file.
            let Some(path) = name.strip_prefix(ENV_PREFIX).filter(|rest| rest.contains("__"))
            else {
                continue;
            };
            let path = path.to_ascii_lowercase().replace("__", ".");
            set(&mut table, &path, &value);
            check_shape(&table, || format!("environment variable {name}"))?;
        }
        for (path, value) in overrides {
            set(&mut table, path, value);
            check_shape(&table, || format!("option {path}"))?;
        }
        let config: Self = check_shape(&table, String::new)?;
        config.check()?;
        Ok(config)
    }

    /// The config as a TOML file that sets every key.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// Whether every address listened on is this machine's loopback.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.listen.quic.ip().is_loopback()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let storage = &self.storage;
        within("storage.open_files_max", storage.open_files_max as u64, 16, 1 << 20)?;
        within("storage.read_threads", storage.read_threads as u64, 1, 512)?;
        let read_bytes = storage.read_bytes_max as u64;
        within("storage.read_bytes_max", read_bytes, READ_BYTES_MIN as u64, 1 << 40)?;
        let inline = storage.inline_write_bytes_max as u64;
        within("storage.inline_write_bytes_max", inline, 0, BATCH_BYTES_MAX as u64)?;
        within("storage.maintenance_interval_ms", storage.maintenance_interval_ms, 10, 3_600_000)?;
        within("limits.connections_max", self.limits.connections_max as u64, 1, 1 << 20)?;
        let per_address = self.limits.connections_per_address_max as u64;
        within("limits.connections_per_address_max", per_address, 1, 1 << 20)?;
        let streams = u64::from(self.limits.streams_per_connection_max);
        let streams_max = u64::from(CONNECTION_STREAMS_MAX);
        within("limits.streams_per_connection_max", streams, 8, streams_max)?;
        let windows = self.limits.window_bytes_max;
        within("limits.window_bytes_max", windows, CONNECTION_WINDOW_BYTES_MAX, 1 << 40)?;
        within("limits.handshake_timeout_ms", self.limits.handshake_timeout_ms, 100, 60_000)?;
        within("limits.idle_timeout_ms", self.limits.idle_timeout_ms, 1_000, 600_000)?;
        within("listen.mtu_max", u64::from(self.listen.mtu_max), 1_200, 6_500)?;
        within("broker.network_threads", self.broker.network_threads as u64, 0, 1024)?;
        within("broker.shutdown_grace_ms", self.broker.shutdown_grace_ms, 0, 600_000)?;
        let tail = self.storage.tail_cache_bytes;
        within("storage.tail_cache_bytes", tail, 0, 1 << 50)?;
        self.archive.check()?;
        self.check_advertised()?;
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err(ConfigError::OutOfRange {
                key: "tls.cert_file",
                value: format!("{:?}", self.tls.cert_file),
                rule: "set tls.cert_file and tls.key_file together, or neither".to_owned(),
            });
        }
        if !self.is_loopback() && self.tls.client_ca_file.is_none() && !self.tls.insecure {
            return Err(ConfigError::OutOfRange {
                key: "listen.quic",
                value: self.listen.quic.to_string(),
                rule: "beyond loopback clients must show who they are: set tls.client_ca_file \
                       (\"cluster\" for the cluster's own CA), or say --insecure to let anyone in"
                    .to_owned(),
            });
        }
        Ok(())
    }
}

impl ArchiveSection {
    fn check(&self) -> Result<(), ConfigError> {
        within("archive.range_bytes_max", self.range_bytes_max, 64 * 1024, 1 << 30)?;
        within("archive.uploads_max", self.uploads_max as u64, 1, 64)?;
        within("archive.interval_ms", self.interval_ms, 10, 3_600_000)?;
        within("archive.cache_bytes", self.cache_bytes as u64, 16 * 1024 * 1024, 1 << 40)?;
        let replay = self.replay_bytes_per_second;
        within("archive.replay_bytes_per_second", replay, 0, 1 << 40)?;
        within("archive.disk_cache_bytes_max", self.disk_cache_bytes_max, 0, 1 << 50)?;
        within("archive.grace_ms", self.grace_ms, 1_000, 365 * 24 * 3_600_000)?;
        within("archive.backlog_bytes_max", self.backlog_bytes_max, 1 << 20, 1 << 60)?;
        let other_scheme = self.location.contains("://") && !self.location.starts_with("s3://");
        if other_scheme {
            return Err(ConfigError::OutOfRange {
                key: "archive.location",
                value: format!("{:?}", self.location),
                rule: "write a directory, or s3://bucket/prefix".to_owned(),
            });
        }
        Ok(())
    }
}

impl BrokerConfig {
    /// Clients must be able to reach what they are told.
    fn check_advertised(&self) -> Result<(), ConfigError> {
        let listen = &self.listen;
        let malformed = !listen.advertised.is_empty() && listen.advertised().is_none();
        let unreachable = listen.advertised.is_empty() && listen.quic.ip().is_unspecified();
        if !malformed && !unreachable {
            return Ok(());
        }
        Err(ConfigError::OutOfRange {
            key: "listen.advertised",
            value: format!("{:?}", listen.advertised),
            rule: format!(
                "write host:port as clients reach this broker; {} is no address to connect to",
                if malformed { &*listen.advertised } else { "the listen address" }
            ),
        })
    }
}

fn read_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    text.parse().map_err(|error: toml::de::Error| ConfigError::Malformed {
        origin: path.display().to_string(),
        message: error.to_string().trim_end().to_owned(),
    })
}

/// Sets `a.b` to a TOML value, or to a string where the text is no TOML value.
fn set(table: &mut toml::Table, path: &str, text: &str) {
    let parsed = format!("value = {text}").parse::<toml::Table>().ok();
    let value = parsed.and_then(|mut table| table.remove("value"));
    let value = value.unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let (section, key) = path.split_once('.').unwrap_or(("", path));
    if section.is_empty() {
        table.insert(key.to_owned(), value);
        return;
    }
    let entry =
        table.entry(section.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let Some(section) = entry.as_table_mut() {
        section.insert(key.to_owned(), value);
    }
}

fn check_shape(
    table: &toml::Table,
    origin: impl FnOnce() -> String,
) -> Result<BrokerConfig, ConfigError> {
    table.clone().try_into().map_err(|error: toml::de::Error| ConfigError::Malformed {
        origin: origin(),
        message: error.message().to_owned(),
    })
}

fn within(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let mut rule = String::new();
    // Writing into a String cannot fail.
    let _ok = write!(rule, "must be from {min} to {max}");
    Err(ConfigError::OutOfRange { key, value: value.to_string(), rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        pairs.into_iter()
    }

    fn overrides(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        env(pairs).collect()
    }

    #[test]
    fn the_layers_override_in_order() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("millstream.toml");
        std::fs::write(&file, "[broker]\nid = 3\n[limits]\nidle_timeout_ms = 9000\n")
            .expect("the file is written");
        let config = BrokerConfig::load(
            Some(&file),
            env(&[("MILLSTREAM_BROKER__ID", "4"), ("MILLSTREAM_CA", "x"), ("HOME", "y")]),
            &overrides(&[("listen.quic", "127.0.0.1:0")]),
        )
        .expect("a good config");
        assert_eq!((config.broker.id, config.limits.idle_timeout_ms), (4, 9000));
        assert_eq!(config.listen.quic.port(), 0);
    }

    #[test]
    fn a_mistake_names_its_origin() {
        let load = |pairs: &[(&str, &str)]| {
            BrokerConfig::load(None, env(pairs), &[]).expect_err("a mistake").to_string()
        };
        let unknown = load(&[("MILLSTREAM_BROKER__IDD", "4")]);
        assert!(unknown.contains("MILLSTREAM_BROKER__IDD") && unknown.contains("idd"), "{unknown}");
        let range = load(&[("MILLSTREAM_STORAGE__READ_THREADS", "0")]);
        assert!(range.contains("storage.read_threads") && range.contains("1 to 512"), "{range}");
        let range = load(&[("MILLSTREAM_STORAGE__READ_BYTES_MAX", "1048576")]);
        assert!(range.contains("read_bytes_max") && range.contains("from 33554432"), "{range}");
        let range = load(&[("MILLSTREAM_LIMITS__WINDOW_BYTES_MAX", "1048576")]);
        assert!(range.contains("window_bytes_max") && range.contains("from 67108864"), "{range}");
    }

    #[test]
    fn beyond_loopback_needs_authentication_or_insecure() {
        let load = |pairs: &[(&str, &str)]| BrokerConfig::load(None, env(&[]), &overrides(pairs));
        let open = ("listen.quic", "0.0.0.0:9092");
        let named = ("listen.advertised", "broker.example:9092");
        let error = load(&[open, named]).expect_err("no authentication").to_string();
        assert!(error.contains("--insecure"), "{error}");
        assert!(load(&[open, named, ("tls.insecure", "true")]).is_ok());
        assert!(load(&[open, named, ("tls.client_ca_file", "cluster")]).is_ok());
        let error = load(&[open, ("tls.insecure", "true")]).expect_err("nowhere").to_string();
        assert!(error.contains("listen.advertised"), "{error}");
    }

    #[test]
    fn an_advertised_endpoint_is_a_host_and_perhaps_a_port() {
        let parse = |text| Advertised::parse(text).map(|at| (at.host, at.port));
        assert_eq!(parse("a.example:7"), Some(("a.example".to_owned(), Some(7))));
        assert_eq!(parse("a.example"), Some(("a.example".to_owned(), None)));
        assert_eq!(parse("[::1]:7"), Some(("[::1]".to_owned(), Some(7))));
        assert_eq!(parse("[::1]"), Some(("[::1]".to_owned(), None)));
        for text in ["", "a:b", ":7", "::1", "a:70000"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_printed_config_reads_back() {
        let config = BrokerConfig::default();
        assert_eq!(toml::from_str::<BrokerConfig>(&config.to_toml()).ok(), Some(config));
    }
}
