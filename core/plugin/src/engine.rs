//! Two ways to run the same component: against a clock, as almost always, and against a count of
//! instructions, when what went wrong must be told apart from a machine that was slow.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmFeatures,
};

use crate::error::HostError;
use crate::limits::{
    CORE_INSTANCES_MAX, COUNTED_STACK_BYTES, Limits, STACK_BYTES, TABLE_ELEMENTS_MAX, TABLES_MAX,
    TICK,
};

/// Memory of a pooled instance that stays mapped between its uses.
const KEEP_RESIDENT_BYTES: usize = 1024 * 1024;
/// Ticks after which even a run that is counted in instructions is given up: a machine so slow
/// cannot tell.
const FUEL_RUN_TICKS: u64 = 30_000;

/// What runs components.
#[derive(Debug)]
pub(crate) struct Engines {
    /// Stops calls at deadlines.
    pub(crate) timed: Engine,
    /// Stops calls when their fuel is used up.
    pub(crate) fuelled: Engine,
    ticker: Arc<Ticker>,
}

impl Engines {
    pub(crate) fn new(limits: &Limits) -> Result<Self, HostError> {
        let broken = |error: wasmtime::Error| HostError::Engine(format!("{error:#}"));
        let timed = Engine::new(&pooled(limits)).or_else(|error| {
            // A process that may not reserve much address space runs plugins a little slower.
            tracing::warn!(%error, "plugins' memory cannot be reserved ahead");
            Engine::new(&common())
        });
        let timed = timed.map_err(broken)?;
        let mut counted = common();
        counted.consume_fuel(true).max_wasm_stack(COUNTED_STACK_BYTES);
        let fuelled = Engine::new(&counted).map_err(broken)?;
        let ticker = Ticker::start(&[&timed, &fuelled])?;
        Ok(Self { timed, fuelled, ticker })
    }

    /// Has the clock run until the result is dropped.
    pub(crate) fn ticking(&self) -> Ticking<'_> {
        self.ticker.begin();
        Ticking(&self.ticker)
    }
}

/// Whole ticks of a deadline, at least one.
pub(crate) fn ticks(deadline: Duration) -> u64 {
    let ticks = deadline.as_micros().div_ceil(TICK.as_micros().max(1));
    u64::try_from(ticks).unwrap_or(u64::MAX).clamp(1, FUEL_RUN_TICKS)
}

/// The deadline of a run that fuel should end.
pub(crate) const fn fuel_run_ticks() -> u64 {
    FUEL_RUN_TICKS
}

/// What is taken once is taken for ever: nothing beyond the core of WebAssembly 2.0.
const BEYOND: WasmFeatures = WasmFeatures::MEMORY64
    .union(WasmFeatures::THREADS)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::MULTI_MEMORY);

/// What holds for both. Whatever a guest computes has to be the same on every machine: no threads,
/// no relaxed arithmetic, one form of NaN.
fn common() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .wasm_features(BEYOND, false);
    config
}

fn pooled(limits: &Limits) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    let each = |count: usize| {
        limits.instances_max.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
    };
    pool.total_component_instances(limits.instances_max)
        .total_core_instances(each(CORE_INSTANCES_MAX))
        .total_memories(limits.instances_max)
        .total_tables(each(TABLES_MAX))
        .max_tables_per_module(u32::try_from(TABLES_MAX).unwrap_or(u32::MAX))
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memories_per_component(1)
        .max_memory_size(limits.memory_bytes_max)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES);
    let mut config = common();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Moves the engines' epochs on while anything runs, and sleeps otherwise.
#[derive(Debug)]
struct Ticker {
    running: AtomicUsize,
    ended: AtomicBool,
    thread: std::sync::OnceLock<Thread>,
}

impl Ticker {
    fn start(engines: &[&Engine]) -> Result<Arc<Self>, HostError> {
        let ticker = Arc::new(Self {
            running: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        });
        let engines: Vec<_> = engines.iter().map(|engine| engine.weak()).collect();
        let weak = Arc::downgrade(&ticker);
        let thread = thread::Builder::new().name("plugin-clock".to_owned());
        let thread = thread.spawn(move || tick(&weak, &engines));
        let thread = thread.map_err(|error| HostError::Engine(error.to_string()))?;
        // Set once, here.
        let _set = ticker.thread.set(thread.thread().clone());
        Ok(ticker)
    }

    fn begin(&self) {
        if self.running.fetch_add(1, Ordering::SeqCst) == 0 {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

fn tick(ticker: &Weak<Ticker>, engines: &[wasmtime::EngineWeak]) {
    loop {
        let Some(strong) = ticker.upgrade() else { return };
        if strong.ended.load(Ordering::SeqCst) {
            return;
        }
        let idle = strong.running.load(Ordering::SeqCst) == 0;
        drop(strong);
        if idle {
            // Whoever begins wakes it; whoever ends the host, too.
            thread::park();
            continue;
        }
        // Whoever begins may wake it early, once: a call then has a tick less.
        thread::park_timeout(TICK);
        for engine in engines.iter().filter_map(wasmtime::EngineWeak::upgrade) {
            engine.increment_epoch();
        }
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.ticker.ended.store(true, Ordering::SeqCst);
        self.ticker.wake();
    }
}

/// While it lives, deadlines come nearer.
pub(crate) struct Ticking<'a>(&'a Ticker);

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
