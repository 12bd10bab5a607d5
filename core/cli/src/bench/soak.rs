//! `bench --ack-log`: a load that goes on through broker restarts and remembers every
//! acknowledgement.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use millstream_client::{Client, Delivery, Producer};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Load;
use super::ack_log::{self, Header};
use super::producer::Source;
use super::target::Target;
use crate::args::LoadArgs;
use crate::connect;
use crate::output::{Out, Progress};
use crate::values::counted;

/// A record may wait this long for a broker that is down.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(600);
/// Records that may await their acknowledgement here; the producer bounds their bytes.
const AWAITING_MAX: usize = 65_536;

#[derive(Serialize, Debug)]
struct Report<'a> {
    topic: &'a str,
    acknowledged: u64,
    seconds: f64,
    ack_log: &'a Path,
}

/// A record on its way.
struct Awaiting {
    producer: u32,
    partition: u32,
    sequence: u64,
    delivery: Delivery,
}

pub(super) async fn run(args: &LoadArgs, target: &Target, path: &Path) -> Result<()> {
    let load = Load::new(args, &target.topic)?;
    let header = Header::new(&target.topic, args.producers, args.partitions);
    let mut log = ack_log::create(path, &header)?;
    let progress = Progress::new(args.records, "acknowledged");
    let (acks, mut acknowledged) = mpsc::channel(AWAITING_MAX);
    let mut tasks = JoinSet::new();
    for index in 0..args.producers {
        let client = super::client(target).await?;
        let builder = connect::producer(&client, &args.batching);
        let producer = builder.delivery_timeout(DELIVERY_TIMEOUT).build().await?;
        let (awaiting, sent) = mpsc::channel(AWAITING_MAX);
        tasks.spawn_local(send(Rc::clone(&load), index, client, producer, awaiting));
        tasks.spawn_local(collect(sent, acks.clone()));
    }
    drop(acks);
    let mut count = 0;
    let logged = async {
        while let Some((producer, partition, offset, sequence)) = acknowledged.recv().await {
            log.add(producer, partition, offset, sequence)?;
            count += 1;
            progress.set(count);
        }
        log.finish()
    };
    let ended = async {
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        anyhow::Ok(())
    };
    // What was acknowledged is written even where a record failed.
    let (acknowledged, ended) = tokio::join!(logged, ended);
    let acknowledged = acknowledged?;
    ended?;

    let report = Report {
        topic: &target.topic,
        acknowledged,
        seconds: load.now().as_secs_f64(),
        ack_log: path,
    };
    let mut out = Out::new(&args.output);
    out.object(&report, |report| {
        format!(
            "{} of {} acknowledged in {:.1} s; check them with `millstream bench verify \
             --ack-log {}`",
            counted(report.acknowledged, "record"),
            report.topic,
            report.seconds,
            report.ack_log.display(),
        )
    })?;
    out.flush()
}

async fn send(
    load: Rc<Load>,
    index: u32,
    client: Client,
    producer: Producer,
    awaiting: mpsc::Sender<Awaiting>,
) -> Result<()> {
    let mut source = Source::new(&load, index, load.now())?;
    while let Some(next) = source.next(&load).await? {
        let (partition, sequence) = (next.partition, next.sequence);
        let delivery = producer.send(next.record).await?;
        let sent = Awaiting { producer: index, partition, sequence, delivery };
        if awaiting.send(sent).await.is_err() {
            break;
        }
    }
    drop(awaiting);
    producer.close().await.context("a record was not stored")?;
    client.close().await;
    Ok(())
}

/// Awaits deliveries in the order of sending, so that the log's runs are long.
async fn collect(
    mut sent: mpsc::Receiver<Awaiting>,
    acks: mpsc::Sender<(u32, u32, i64, u64)>,
) -> Result<()> {
    while let Some(Awaiting { producer, partition, sequence, delivery }) = sent.recv().await {
        let stored = delivery.await.with_context(|| {
            format!("record {sequence} of producer {producer}, partition {partition}")
        })?;
        let ack = (producer, partition, stored.offset, sequence);
        acks.send(ack).await.context("the log is closed")?;
    }
    Ok(())
}
