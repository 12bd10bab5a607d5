//! A subscription that stops half-way and goes on later, as no client of ours would.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use millstream_net::ClientTls;
use millstream_net::client::{BatchReceiver, Connection, Connector, ConnectorConfig, Received};
use millstream_tests::{Broker, topics};
use millstream_types::{Offset, PartitionIndex};
use millstream_wire::Batch;
use millstream_wire::api::{OpenSubscription, StartAt, TraceId};
use tokio::runtime::Runtime;

/// How long what is given up stays: longer than a reader takes that goes on at once.
pub(super) const GRACE: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(30);

/// A subscription to partition 0 from its first offset on.
pub(super) struct Reading {
    /// Has a thread of its own, so that the connection lives while nobody reads.
    runtime: Runtime,
    _connection: Connection,
    batches: BatchReceiver,
    next: u64,
}

impl Reading {
    pub(super) fn begin(broker: &Broker, topic: &str) -> Result<Self> {
        let known = topics(broker)?;
        let (_, id) = known.iter().find(|(name, _)| name == topic).context("no topic")?;
        let open = OpenSubscription {
            topic: id.parse().map_err(|_| anyhow!("{id} is no id"))?,
            partition: PartitionIndex(0),
            start: StartAt::Offset(Offset::ZERO),
            frame_bytes_max: 64 * 1024,
            trace: TraceId::default(),
        };
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build()?;
        let roots_pem = std::fs::read_to_string(broker.ca())?;
        let (connection, batches) = runtime.block_on(async {
            let tls = ClientTls { roots_pem, identity: None };
            let connector = Connector::new(&tls, ConnectorConfig::default())?;
            let connection = connector.connect(&broker.quic().to_string()).await?;
            let (_, batches) = connection.subscribe(open).await?;
            anyhow::Ok((connection, batches))
        })?;
        Ok(Self { runtime, _connection: connection, batches, next: 0 })
    }

    /// Reads one frame; returns the offset after it.
    pub(super) fn read_some(&mut self) -> Result<u64> {
        let before = self.next;
        while self.next == before {
            let received = self
                .runtime
                .block_on(async { tokio::time::timeout(PATIENCE, self.batches.next()).await })??;
            match received.context("the broker ended the subscription")? {
                Received::Batches { mut bytes, .. } => {
                    while !bytes.is_empty() {
                        let (batch, rest) = Batch::split_first(&bytes)?;
                        bytes = rest;
                        let header = batch.header();
                        let base = u64::try_from(header.base_offset.value())?;
                        ensure!(base == self.next, "offset {base} came instead of {}", self.next);
                        self.next = u64::try_from(header.next_offset().value())?;
                    }
                }
                Received::Progress(_) => {}
            }
        }
        Ok(self.next)
    }

    /// Reads on to `end`, each offset once.
    pub(super) fn read_to(&mut self, end: u64) -> Result<()> {
        while self.next < end {
            self.read_some()?;
        }
        Ok(())
    }
}
