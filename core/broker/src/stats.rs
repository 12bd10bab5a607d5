//! What the broker counts about itself.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream_wire::api::{Metric, MetricValue};

/// Counters of the log's read path. They only grow.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    bytes_served: AtomicU64,
    bytes_copied: AtomicU64,
}

/// Somebody else's counters.
type Source = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;

/// Everything that the broker reports of itself.
#[derive(Default)]
pub(crate) struct Metrics {
    counters: Vec<Source>,
    gauges: Vec<Source>,
}

impl Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Stats {
    /// Batches of `bytes` were handed to a front.
    pub(crate) fn served(&self, bytes: usize) {
        self.bytes_served.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// `bytes` were copied out of the page cache to be served.
    pub(crate) fn copied(&self, bytes: usize) {
        self.bytes_copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn all(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("log_bytes_served_total", self.bytes_served.load(Ordering::Relaxed)),
            ("log_bytes_copied_to_serve_total", self.bytes_copied.load(Ordering::Relaxed)),
        ]
    }
}

impl Metrics {
    /// With the counters of the read path.
    pub(crate) fn new(stats: Arc<Stats>) -> Self {
        let mut metrics = Self::default();
        metrics.add_counters(move || stats.all());
        metrics
    }

    /// Adds counters, in base units, whose names end in `_total`.
    pub(crate) fn add_counters(
        &mut self,
        source: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        self.counters.push(Box::new(source));
    }

    /// Adds values that go up and down.
    pub(crate) fn add_gauges(
        &mut self,
        source: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        self.gauges.push(Box::new(source));
    }

    /// Every metric as it stands, by name.
    pub(crate) fn collect(&self) -> Vec<Metric> {
        let counters = self.counters.iter().flat_map(|source| source());
        let counters = counters.map(|(name, value)| (name, MetricValue::Counter(value)));
        let gauges = self.gauges.iter().flat_map(|source| source());
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a measurement, not an identity")]
        let gauges = gauges.map(|(name, value)| (name, MetricValue::Gauge(value as f64)));
        let mut metrics: Vec<Metric> = counters
            .chain(gauges)
            .map(|(name, value)| Metric { name: name.to_owned(), value })
            .collect();
        metrics.sort_by(|a, b| a.name.cmp(&b.name));
        metrics
    }
}
