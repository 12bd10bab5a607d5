//! One instance of a component: a memory of its own, and a deadline for every call.

use std::time::Duration;

use wasmtime::component::Component;
use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder, Trap};

use crate::engine::{Engines, fuel_run_ticks, ticks};
use crate::error::{Fault, LoadError};
use crate::guest::partitioner::{Partitioner, PartitionerPre};
use crate::guest::transform::{Transform, TransformPre};
use crate::guest::{Config, Guest, Manifest, Said, linker};
use crate::limits::{CORE_INSTANCES_MAX, IMPORT_BYTES_MAX, Limits, TABLE_ELEMENTS_MAX, TABLES_MAX};

/// Which world a component fits, ready to be made instances of.
#[derive(Clone)]
pub(crate) enum World {
    Transform(TransformPre<Guest>),
    Partitioner(PartitionerPre<Guest>),
}

impl World {
    /// The world of a compiled component.
    pub(crate) fn of(engine: &Engine, component: &Component) -> Result<Self, LoadError> {
        let unfit = |error: wasmtime::Error| LoadError::World(format!("{error:#}"));
        let linker = linker(engine).map_err(unfit)?;
        // Names what it imports beyond a plugin's.
        let pre = linker.instantiate_pre(component).map_err(unfit)?;
        let exports = |name| component.get_export_index(None, name).is_some();
        let places = exports("assign");
        if places && exports("apply") {
            return Err(LoadError::World("it exports both `assign` and `apply`".to_owned()));
        }
        Ok(if places {
            Self::Partitioner(PartitionerPre::new(pre).map_err(unfit)?)
        } else {
            Self::Transform(TransformPre::new(pre).map_err(unfit)?)
        })
    }
}

/// What ends a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// A time.
    Deadline(Duration),
    /// A count of instructions, the same on every machine.
    Fuel(u64),
}

enum Exports {
    Transform(Transform),
    Partitioner(Partitioner),
}

/// An instance that no call has failed on: after a failure it is dropped.
pub(crate) struct Instance {
    store: Store<Guest>,
    exports: Exports,
}

impl Instance {
    pub(crate) fn new(
        engines: &Engines,
        world: &World,
        limits: &Limits,
        bound: Bound,
    ) -> Result<Self, Fault> {
        let engine = match bound {
            Bound::Deadline(_) => &engines.timed,
            Bound::Fuel(_) => &engines.fuelled,
        };
        let guest = Guest { limits: store_limits(limits), said: Said::default(), overran: false };
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_hostcall_fuel(IMPORT_BYTES_MAX);
        let _ticking = engines.ticking();
        arm(&mut store, bound);
        let made = match world {
            World::Transform(pre) => pre.instantiate(&mut store).map(Exports::Transform),
            World::Partitioner(pre) => pre.instantiate(&mut store).map(Exports::Partitioner),
        };
        let exports = made.map_err(|error| match fault(&error, bound) {
            // The start function ran and failed.
            fault @ (Fault::Deadline(_) | Fault::Fuel(_)) => fault,
            _ => Fault::Instance(format!("{error:#}")),
        })?;
        Ok(Self { store, exports })
    }

    pub(crate) fn manifest(&mut self, engines: &Engines, bound: Bound) -> Result<Manifest, Fault> {
        self.call(engines, bound, IMPORT_BYTES_MAX, |store, exports| match exports {
            Exports::Transform(guest) => guest.call_manifest(store),
            Exports::Partitioner(guest) => guest.call_manifest(store),
        })
    }

    /// The inner error is the plugin's word on its configuration.
    pub(crate) fn configure(
        &mut self,
        engines: &Engines,
        bound: Bound,
        config: &Config,
    ) -> Result<Result<(), String>, Fault> {
        self.call(engines, bound, IMPORT_BYTES_MAX, |store, exports| match exports {
            Exports::Transform(guest) => guest.call_configure(store, config),
            Exports::Partitioner(guest) => guest.call_configure(store, config),
        })
    }

    /// An answer of at most `bytes_max`.
    pub(crate) fn apply(
        &mut self,
        engines: &Engines,
        bound: Bound,
        batch: &[u8],
        bytes_max: usize,
    ) -> Result<Vec<u8>, Fault> {
        let said = self.call(engines, bound, bytes_max, |store, exports| match exports {
            Exports::Transform(guest) => guest.call_apply(store, batch),
            Exports::Partitioner(_) => Ok(Err("a partitioner has no `apply`".to_owned())),
        })?;
        said.map_err(Fault::Said)
    }

    pub(crate) fn hotlist(
        &mut self,
        engines: &Engines,
        bound: Bound,
        hot: &[u8],
    ) -> Result<(), Fault> {
        self.call(engines, bound, IMPORT_BYTES_MAX, |store, exports| match exports {
            Exports::Partitioner(guest) => guest.call_hotlist(store, hot),
            Exports::Transform(_) => Ok(()),
        })
    }

    pub(crate) fn assign(
        &mut self,
        engines: &Engines,
        bound: Bound,
        keys: &[u8],
        bytes_max: usize,
    ) -> Result<Vec<u32>, Fault> {
        self.call(engines, bound, bytes_max, |store, exports| match exports {
            Exports::Partitioner(guest) => guest.call_assign(store, keys),
            Exports::Transform(_) => Ok(Vec::new()),
        })
    }

    /// What the guest told since this was last called.
    pub(crate) fn take_said(&mut self) -> Said {
        std::mem::take(&mut self.store.data_mut().said)
    }

    fn call<T>(
        &mut self,
        engines: &Engines,
        bound: Bound,
        bytes_max: usize,
        call: impl FnOnce(&mut Store<Guest>, &Exports) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        self.store.set_hostcall_fuel(bytes_max.max(IMPORT_BYTES_MAX));
        arm(&mut self.store, bound);
        let _ticking = engines.ticking();
        let answer = call(&mut self.store, &self.exports).map_err(|error| fault(&error, bound))?;
        if self.store.data().overran {
            return Err(Fault::Answer(format!("a log line of more than {IMPORT_BYTES_MAX} bytes")));
        }
        Ok(answer)
    }
}

/// Sets what will end the next call.
fn arm(store: &mut Store<Guest>, bound: Bound) {
    match bound {
        Bound::Deadline(deadline) => store.set_epoch_deadline(ticks(deadline)),
        Bound::Fuel(fuel) => {
            store.set_epoch_deadline(fuel_run_ticks());
            if let Err(error) = store.set_fuel(fuel) {
                // An engine that counts none: without fuel nothing would run at all.
                tracing::error!(%error, "a run without fuel");
            }
        }
    }
}

fn store_limits(limits: &Limits) -> StoreLimits {
    StoreLimitsBuilder::new()
        .memory_size(limits.memory_bytes_max)
        .memories(1)
        .instances(CORE_INSTANCES_MAX)
        .tables(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .build()
}

fn fault(error: &wasmtime::Error, bound: Bound) -> Fault {
    match (error.downcast_ref::<Trap>(), bound) {
        (Some(Trap::Interrupt), Bound::Deadline(deadline)) => {
            Fault::Deadline(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX))
        }
        (Some(Trap::OutOfFuel), Bound::Fuel(fuel)) => Fault::Fuel(fuel),
        (Some(Trap::Interrupt), Bound::Fuel(_)) => Fault::Slow,
        (Some(trap), _) => Fault::Trap(trap.to_string()),
        // An answer that lies outside of its memory, text that is no UTF-8, more than may be told.
        (None, _) => Fault::Answer(format!("{:#}", error.root_cause())),
    }
}
