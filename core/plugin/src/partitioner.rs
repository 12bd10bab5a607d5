//! A partitioner at work: keys in, a partition for each out, or an error for all.

use millstream_plugin_abi::{DEFAULT_PARTITION, Hot, Keys, KeysWriter, check_assigned};

use crate::error::{Fault, LoadError};
use crate::guest::Config;
use crate::instance::{Bound, Instance};
use crate::plugin::{Binding, Kind, Plugin, as_fault};

/// Keys that have the whole deadline; so many more have it once more, and so has each mebibyte.
const KEYS_PER_DEADLINE: u32 = 5_000;
/// Bytes of an answer beyond a partition for each record.
const ANSWER_BYTES_ALWAYS: usize = 4096;

/// A plugin bound to a topic. Not to be shared: each caller has its own.
pub struct Partitioner {
    plugin: Plugin,
    config: Config,
    instance: Option<Instance>,
    /// The hot keys that are in force, packed, and their epoch.
    hot: Vec<u8>,
    hot_epoch: u64,
    /// Whether the instance has been told of them.
    hot_told: bool,
    keys: Vec<u8>,
}

impl std::fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partitioner").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

impl Partitioner {
    /// Binds a plugin and makes its first instance.
    ///
    /// # Errors
    /// It is no partitioner, or does not take its configuration.
    pub fn new(plugin: &Plugin, binding: &Binding) -> Result<Self, LoadError> {
        let manifest = plugin.manifest();
        if manifest.kind != Kind::Partitioner {
            return Err(LoadError::World(format!("`{}` is no partitioner", manifest.name)));
        }
        let config = plugin.config(binding)?;
        let bound = Bound::Deadline(plugin.host().limits().partitioner_deadline);
        let instance = plugin.instance(&config, bound)?;
        Ok(Self {
            plugin: plugin.clone(),
            config,
            instance: Some(instance),
            hot: Vec::new(),
            hot_epoch: 0,
            hot_told: true,
            keys: Vec::new(),
        })
    }

    /// The epoch of the hot keys in force; 0 before any were set.
    #[must_use]
    pub fn hot_epoch(&self) -> u64 {
        self.hot_epoch
    }

    /// Has keys placed by these hot keys from now on, packed as `MSH1`.
    ///
    /// # Errors
    /// They are not packed so.
    pub fn set_hot(&mut self, hot: &[u8]) -> Result<(), Fault> {
        let read = Hot::read(hot).map_err(|error| Fault::Answer(error.to_string()))?;
        self.hot_epoch = read.epoch();
        self.hot.clear();
        self.hot.extend_from_slice(hot);
        self.hot_told = false;
        Ok(())
    }

    /// Begins a batch over so many partitions: the caller packs keys into it and then calls
    /// [`Partitioner::assign`].
    pub fn begin(&mut self, partitions: u32) -> KeysWriter<'_> {
        let headers = self.plugin.manifest().needs_headers;
        KeysWriter::new(&mut self.keys, headers, partitions, self.hot_epoch)
    }

    /// A partition for each key of the batch that was begun; `None` is where a key would go without
    /// a plugin.
    ///
    /// # Errors
    /// The guest failed, or placed a record where there is no partition. Nothing is placed then;
    /// the same batch can be tried again.
    pub fn assign(&mut self) -> Result<impl Iterator<Item = Option<u32>> + use<>, Fault> {
        let keys = Keys::open(&self.keys).map_err(|error| Fault::Answer(error.to_string()))?;
        let (count, partitions) = (keys.count(), keys.partitions());
        let host = self.plugin.host();
        // A large batch takes longer to be handed over alone.
        let whole = host.limits().partitioner_deadline;
        let pieces = 1 + count / KEYS_PER_DEADLINE + mebibytes(self.keys.len());
        let bound = Bound::Deadline(whole.saturating_mul(pieces));
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => {
                self.hot_told = self.hot_epoch == 0;
                self.plugin.instance(&self.config, bound).map_err(|error| as_fault(&error))?
            }
        };
        if !self.hot_told {
            instance.hotlist(host.engines(), bound, &self.hot)?;
            self.hot_told = true;
        }
        let bytes_max = keys_bytes(count).saturating_add(ANSWER_BYTES_ALWAYS);
        let assigned = instance.assign(host.engines(), bound, &self.keys, bytes_max)?;
        check_assigned(assigned.iter().copied(), count, partitions)
            .map_err(|error| Fault::Answer(error.to_string()))?;
        // What it told is nobody's here: clients have no operator.
        drop(instance.take_said());
        self.instance = Some(instance);
        Ok(assigned.into_iter().map(|at| (at != DEFAULT_PARTITION).then_some(at)))
    }
}

fn mebibytes(bytes: usize) -> u32 {
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

/// Bytes of an answer for so many records.
fn keys_bytes(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(size_of::<u32>())
}
