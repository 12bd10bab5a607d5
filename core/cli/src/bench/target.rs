//! What is measured: a broker of our own or a running one, and the topic made for the run.

use anyhow::{Context as _, Result, bail};
use millstream_client::{Client, MetricValue, NewTopic, OffsetSpec, PartitionOffset};
use serde::Serialize;
use tempfile::TempDir;

use crate::args::{ConfigAssignment, ConnectionArgs, Durability, LoadArgs};
use crate::connect::connect;
use crate::failure::advised;
use crate::output::note;
use crate::own_broker::{Options, OwnBroker};
use crate::usage::Usage;

/// The broker and the topic of a run.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) connection: ConnectionArgs,
    pub(super) topic: String,
    admin: Client,
    broker_pid: Option<u32>,
    own: Option<OwnBroker>,
    /// Removed when dropped, after the broker has ended.
    _dir: Option<TempDir>,
}

/// What the broker has done so far, where it tells.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(super) struct Served {
    /// Bytes of batches handed to consumers' streams.
    pub(super) bytes_served: u64,
    /// Bytes copied to get there.
    pub(super) bytes_copied: u64,
}

impl Target {
    pub(super) async fn start(args: &LoadArgs) -> Result<Self> {
        if let Some((_, load)) = &args.cpus {
            pin_own_process(load)?;
        }
        let (own, dir) = if args.connection.bootstrap.is_empty() {
            let (own, dir) = own_broker(args).await?;
            (Some(own), dir)
        } else {
            (None, None)
        };
        let connection = match &own {
            Some(own) => {
                let (address, ca) = (own.ready.quic.to_string(), own.ready.ca.clone());
                args.connection.to_own_broker(address, ca)
            }
            None => args.connection.clone(),
        };
        let admin = connect(&connection).await?;
        let topic = args.topic.clone().unwrap_or_else(|| format!("bench-{}", std::process::id()));
        create_topic(&admin, &topic, args).await?;
        let broker_pid = own.as_ref().map(OwnBroker::pid).or(args.broker_pid);
        Ok(Self { connection, topic, admin, broker_pid, own, _dir: dir })
    }

    /// Ends the own broker; removes the topic from another one, unless it is to be verified later.
    pub(super) async fn stop(self, args: &LoadArgs) -> Result<()> {
        if self.own.is_none() && args.ack_log.is_none() {
            self.admin.admin().delete_topic(&self.topic).await?;
        }
        self.admin.close().await;
        match self.own {
            Some(own) => own.stop().await,
            None => Ok(()),
        }
    }

    /// Where each partition of the topic ends.
    pub(super) async fn ends(&self) -> Result<Vec<PartitionOffset>> {
        Ok(self.admin.admin().list_offsets(&self.topic, &[], OffsetSpec::Latest).await?)
    }

    /// What the broker's process has used, where it can be seen.
    pub(super) fn broker_usage(&self) -> Option<Usage> {
        self.broker_pid.and_then(Usage::of)
    }

    /// What the broker says of its reads.
    pub(super) async fn served(&self) -> Result<Served> {
        let status = self.admin.admin().broker_status().await?;
        let counter = |name: &str| {
            let metric = status.metrics.iter().find(|metric| metric.name == name);
            metric.map_or(0, |metric| match metric.value {
                MetricValue::Counter(value) => value,
                MetricValue::Gauge(_) => 0,
            })
        };
        Ok(Served {
            bytes_served: counter("log_bytes_served_total"),
            bytes_copied: counter("log_bytes_copied_to_serve_total"),
        })
    }
}

async fn own_broker(args: &LoadArgs) -> Result<(OwnBroker, Option<TempDir>)> {
    let (dir, temporary) = match &args.dir {
        Some(dir) => (dir.clone(), None),
        None => {
            let temporary = tempfile::Builder::new()
                .prefix("millstream-bench-")
                .tempdir()
                .context("cannot make a temporary directory")?;
            (temporary.path().join("data"), Some(temporary))
        }
    };
    let cpus = args.cpus.as_ref().map(|(broker, _)| broker.clone());
    let own = OwnBroker::start(&Options { dir, cpus, ..Options::default() }).await?;
    Ok((own, temporary))
}

async fn create_topic(client: &Client, name: &str, args: &LoadArgs) -> Result<()> {
    if args.durability == Durability::Replicated {
        note("durability=replicated: records are acknowledged before they are synced to disk");
    }
    let mut topic = NewTopic::new(name)
        .partitions(args.partitions)
        .config("durability", args.durability.as_str())
        .config("max.message.bytes", millstream_types::limits::BATCH_BYTES_MAX.to_string());
    for ConfigAssignment { name, value } in &args.config {
        topic = topic.config(name, value);
    }
    if !client.admin().create_topic(topic).await?.created {
        return Err(advised(
            format!("topic {name} exists already; a run makes its own"),
            "name another one with --topic, or delete it with `millstream topic delete`",
        ));
    }
    Ok(())
}

/// Pins this process, whose one thread is the load.
fn pin_own_process(cpus: &str) -> Result<()> {
    let pid = std::process::id().to_string();
    let output = std::process::Command::new("taskset")
        .args(["-cp", cpus, &pid])
        .output()
        .context("cannot run taskset, which --cpus needs")?;
    if !output.status.success() {
        bail!("taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
