//! Latencies, kept whole: a histogram of three digits, from 1 us to 10 minutes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

const NS_MAX: u64 = 600 * 1_000_000_000;

/// Latencies of one kind.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    histogram: Histogram<u64>,
}

/// What is told of them, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) mean_us: f64,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) max_us: f64,
}

impl Latencies {
    pub(super) fn new() -> Result<Self> {
        let histogram = Histogram::new_with_bounds(1_000, NS_MAX, 3).context("histogram")?;
        Ok(Self { histogram })
    }

    /// Adds one; more than 10 minutes count as 10.
    pub(super) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(NS_MAX);
        self.histogram.saturating_record(ns);
    }

    /// Adds all of another's.
    pub(super) fn merge(&mut self, other: &Self) -> Result<()> {
        self.histogram.add(&other.histogram).context("histograms of other bounds")
    }

    /// `None` where there was none.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let histogram = &self.histogram;
        if histogram.is_empty() {
            return None;
        }
        let us = |quantile| crate::values::as_f64(histogram.value_at_quantile(quantile)) / 1e3;
        Some(Percentiles {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: crate::values::as_f64(histogram.max()) / 1e3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!(latencies.percentiles(), None);
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let mut more = Latencies::new().unwrap();
        more.record(Duration::from_secs(3600));
        latencies.merge(&more).unwrap();
        let told = latencies.percentiles().unwrap();
        assert_eq!(told.count, 1001);
        for (found, expected) in [(told.p50_us, 500.0), (told.p90_us, 900.0), (told.p99_us, 990.0)]
        {
            assert!((found - expected).abs() / expected < 0.005, "{found} is not {expected}");
        }
        assert!((told.max_us / 600e6 - 1.0).abs() < 0.002, "{}", told.max_us);
    }
}
