//! `millstream bench`: load over real QUIC against a broker in another process, measured and
//! verified.

mod ack_log;
mod consumer;
mod latency;
mod pace;
mod payload;
mod producer;
mod report;
mod soak;
mod target;
mod verifier;
mod verify;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use millstream_client::Client;
use millstream_env::clock::{Clock as _, SystemClock};
use millstream_types::limits::BATCH_BYTES_MAX;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::args::{BenchAction, BenchArgs, BenchMode, LoadArgs};
use crate::connect::connect;
use crate::failure::misused;
use crate::output::{Out, Progress};

use latency::Latencies;
pub use pace::{Schedule, Timer};
use producer::Sent;
use report::{Phase, Report};
use target::Target;

/// How long to send where neither --duration nor --records says.
const DURATION_DEFAULT: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: BenchArgs) -> Result<()> {
    match args.action {
        Some(BenchAction::Verify(args)) => verify::run(args).await,
        None => {
            check(&args.load)?;
            // One thread for everything, so that no wake-up of another core is measured.
            LocalSet::new().run_until(Box::pin(run_load(args.load))).await
        }
    }
}

/// What the flags cannot say of themselves.
fn check(args: &LoadArgs) -> Result<()> {
    let size = args.record_size.as_usize();
    if !(payload::STAMP_BYTES..=BATCH_BYTES_MAX / 2).contains(&size) {
        return Err(misused(
            format!("--record-size {} cannot be measured", args.record_size),
            format!("choose from {} to {} bytes", payload::STAMP_BYTES, BATCH_BYTES_MAX / 2),
        ));
    }
    if args.dir.is_some() && !args.connection.bootstrap.is_empty() {
        return Err(misused(
            "--dir is for an own broker, --bootstrap (or MILLSTREAM_BOOTSTRAP) names another one",
            "leave one of them out",
        ));
    }
    args.batching.check()
}

async fn run_load(args: LoadArgs) -> Result<()> {
    let target = Target::start(&args).await?;
    let result = match &args.ack_log {
        Some(path) => soak::run(&args, &target, path).await,
        None => measure(&args, &target).await,
    };
    let stopped = target.stop(&args).await;
    result.and(stopped)
}

/// What all tasks of a load share; they run on one thread.
#[derive(Debug)]
struct Load {
    args: LoadArgs,
    clock: SystemClock,
    topic: Arc<str>,
    /// Records handed to producers so far.
    sent: Cell<u64>,
    /// Records that consumers read so far.
    received: Cell<u64>,
    /// When the last record was acknowledged, and when the last one was read: connections take
    /// longer to close.
    produced_at: Cell<Duration>,
    consumed_at: Cell<Duration>,
    /// From when on latencies count.
    measured_from: Cell<Duration>,
    ack_latencies: RefCell<Latencies>,
    end_to_end: RefCell<Latencies>,
}

impl Load {
    fn new(args: &LoadArgs, topic: &str) -> Result<Rc<Self>> {
        Ok(Rc::new(Self {
            args: args.clone(),
            clock: SystemClock::new(),
            topic: topic.into(),
            sent: Cell::new(0),
            received: Cell::new(0),
            produced_at: Cell::new(Duration::ZERO),
            consumed_at: Cell::new(Duration::ZERO),
            measured_from: Cell::new(Duration::ZERO),
            ack_latencies: RefCell::new(Latencies::new()?),
            end_to_end: RefCell::new(Latencies::new()?),
        }))
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// When sending ends, unless a count of records ends it.
    fn duration(&self) -> Option<Duration> {
        match (self.args.duration, self.args.records) {
            (Some(duration), _) => Some(duration),
            (None, Some(_)) => None,
            (None, None) => Some(DURATION_DEFAULT),
        }
    }
}

async fn measure(args: &LoadArgs, target: &Target) -> Result<()> {
    let load = Load::new(args, &target.topic)?;
    let mut report = Report::new(args);
    let sent = match args.mode {
        BenchMode::Produce => {
            let watch = Phase::begin(&load, target).await?;
            let sent = beside(watch.skip_warmup(), produce(&load, target)).await?;
            watch.end_produce(&mut report).await?;
            consume_all(&load, target, &sent, &mut report, "verifying").await?;
            sent
        }
        BenchMode::Consume => {
            let sent = produce(&load, target).await?;
            let watch = Phase::begin(&load, target).await?;
            consume_all(&load, target, &sent, &mut report, "consuming").await?;
            watch.end_consume(&mut report).await?;
            sent
        }
        BenchMode::Both => {
            let (tell, told) = watch::channel(None);
            let consumers = consumer::start(&load, target, &told).await?;
            let watch = Phase::begin(&load, target).await?;
            let both = async {
                let sent = produce(&load, target).await?;
                tell.send(Some(Arc::clone(&sent.per_partition))).context("no consumer is left")?;
                Ok(sent)
            };
            let verified = finish(consumers);
            let all = async { tokio::try_join!(both, verified) };
            let (sent, verified) = beside(watch.skip_warmup(), all).await?;
            watch.end_both(&mut report).await?;
            report.verified(&sent, &verified, args)?;
            sent
        }
    };
    verifier::check_ends(&target.ends().await?, &sent.per_partition)?;
    let mut out = Out::new(&args.output);
    out.object(&report, Report::text)?;
    out.flush()
}

/// Runs all producers to their end; every record is acknowledged then.
async fn produce(load: &Rc<Load>, target: &Target) -> Result<Sent> {
    let progress = Progress::new(load.args.records, "producing");
    let mut producers = producer::start(load, target).await?;
    let mut all = Sent::new(load.args.partitions);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            ended = producers.join_next() => match ended {
                Some(sent) => all.merge(&sent??),
                None => return Ok(all),
            },
            _ = tick.tick() => progress.set(load.sent.get()),
        }
    }
}

/// Runs consumers over everything that was sent.
async fn consume_all(
    load: &Rc<Load>,
    target: &Target,
    sent: &Sent,
    report: &mut Report,
    what: &'static str,
) -> Result<()> {
    let (_tell, told) = watch::channel(Some(Arc::clone(&sent.per_partition)));
    let progress = Progress::new(Some(sent.records), what);
    let consumers = consumer::start(load, target, &told).await?;
    let shown = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            progress.set(load.received.get());
        }
    };
    let verified = beside(shown, finish(consumers)).await?;
    report.verified(sent, &verified, &load.args)
}

/// Waits for all consumers; the first that fails ends them all.
async fn finish(mut consumers: JoinSet<Result<consumer::Received>>) -> Result<consumer::Received> {
    let mut all = consumer::Received::default();
    while let Some(received) = consumers.join_next().await {
        all.merge(&received??);
    }
    Ok(all)
}

/// Runs `main` to its end with `side`, which never ends, beside it.
async fn beside<T>(side: impl Future<Output = Infallible>, main: impl Future<Output = T>) -> T {
    tokio::select! {
        never = side => match never {},
        result = main => result,
    }
}

/// A connection of its own for each producer or consumer.
async fn client(target: &Target) -> Result<Client> {
    connect(&target.connection).await
}
