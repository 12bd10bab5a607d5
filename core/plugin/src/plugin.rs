//! A component, compiled and looked at, and what it says of itself.

use std::fmt;
use std::sync::{Arc, OnceLock};

use millstream_plugin_abi::{ABI, ABI_OLDEST, VerdictSet, limits as abi};
use millstream_types::Digest;
use wasmtime::component::Component;

use crate::engine::Engines;
use crate::error::{Fault, HostError, LoadError};
use crate::guest::{self, Config, Needs, Verdicts};
use crate::instance::{Bound, Instance, World};
use crate::limits::Limits;

/// Runs plugins. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engines: Engines,
    limits: Limits,
}

impl Host {
    /// A host that lets plugins have so much.
    ///
    /// # Errors
    /// This machine cannot run WebAssembly.
    pub fn new(limits: Limits) -> Result<Self, HostError> {
        let engines = Engines::new(&limits)?;
        Ok(Self { shared: Arc::new(Shared { engines, limits }) })
    }

    /// What plugins may have.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(crate) fn engines(&self) -> &Engines {
        &self.shared.engines
    }

    /// Compiles a component and asks it for its manifest. Takes a tenth of a second or so, and a
    /// processor of the caller's.
    ///
    /// # Errors
    /// It is no plugin that this host takes.
    pub fn load(&self, bytes: &[u8]) -> Result<Plugin, LoadError> {
        if bytes.len() > abi::MODULE_BYTES_MAX {
            return Err(LoadError::TooLarge { bytes: bytes.len() });
        }
        let world = self.compile(bytes, &self.engines().timed)?;
        let bound = Bound::Deadline(self.limits().start_deadline);
        let mut instance = Instance::new(self.engines(), &world, self.limits(), bound)
            .map_err(LoadError::Start)?;
        let said = instance.manifest(self.engines(), bound).map_err(LoadError::Start)?;
        let kind = match world {
            World::Transform(_) => Kind::Transform,
            World::Partitioner(_) => Kind::Partitioner,
        };
        let manifest = Manifest::new(said, kind)?;
        Ok(Plugin {
            inner: Arc::new(Inner {
                host: self.clone(),
                digest: digest(bytes),
                manifest,
                world,
                bytes: bytes.into(),
                fuelled: OnceLock::new(),
            }),
        })
    }

    fn compile(&self, bytes: &[u8], engine: &wasmtime::Engine) -> Result<World, LoadError> {
        // The eight bytes that core modules begin with.
        if bytes.starts_with(b"\0asm\x01\0\0\0") {
            return Err(LoadError::CoreModule);
        }
        let component = Component::from_binary(engine, bytes)
            .map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
        World::of(engine, &component)
    }
}

/// What a plugin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It judges and rewrites records.
    Transform,
    /// It says which partition records go to.
    Partitioner,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transform => "transform",
            Self::Partitioner => "partitioner",
        })
    }
}

/// What a plugin says of itself, checked.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its author's version; what counts is the digest.
    pub version: String,
    /// The layout version that it and this host speak.
    pub layout: u16,
    /// Whether it wants values packed.
    pub needs_values: bool,
    /// Whether it wants headers packed.
    pub needs_headers: bool,
    /// The verdicts that it may give.
    pub verdicts: VerdictSet,
    /// Which of the two it is.
    pub kind: Kind,
}

impl Manifest {
    fn new(said: guest::Manifest, kind: Kind) -> Result<Self, LoadError> {
        let guest::Manifest { name, version, min_abi, max_abi, stateless, needs, verdicts } = said;
        let named = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        if !(1..=abi::MANIFEST_TEXT_BYTES_MAX).contains(&name.len()) || !name.bytes().all(named) {
            let message = "its name must be 1 to 255 of a-z, 0-9, `-`, `_` and `.`";
            return Err(LoadError::Manifest(message.to_owned()));
        }
        if !(1..=abi::MANIFEST_TEXT_BYTES_MAX).contains(&version.len()) {
            let message = "its version must have 1 to 255 bytes";
            return Err(LoadError::Manifest(message.to_owned()));
        }
        if !stateless {
            return Err(LoadError::Stateful { name });
        }
        let (min, max, own_min, own_max) = (min_abi, max_abi, ABI_OLDEST, ABI);
        let layout = max.min(own_max);
        if min > max || layout < min.max(own_min) {
            return Err(LoadError::Layout { name, min, max, own_min, own_max });
        }
        if kind == Kind::Partitioner && verdicts != Verdicts::empty() {
            let message = "a partitioner gives no verdicts";
            return Err(LoadError::Manifest(message.to_owned()));
        }
        Ok(Self {
            name,
            version,
            layout,
            needs_values: needs.contains(Needs::VALUES),
            needs_headers: needs.contains(Needs::HEADERS),
            verdicts: verdict_set(verdicts),
            kind,
        })
    }
}

fn verdict_set(said: Verdicts) -> VerdictSet {
    let each = [
        (Verdicts::DROP, VerdictSet::DROP),
        (Verdicts::REPLACE_VALUE, VerdictSet::REPLACE_VALUE),
        (Verdicts::REPLACE_RECORD, VerdictSet::REPLACE_RECORD),
        (Verdicts::EMIT, VerdictSet::EMIT),
        (Verdicts::ROUTE, VerdictSet::ROUTE),
        (Verdicts::DEAD_LETTER, VerdictSet::DEAD_LETTER),
        (Verdicts::REJECT, VerdictSet::REJECT),
    ];
    let said = each.into_iter().filter(|(verdict, _)| said.contains(*verdict));
    said.fold(VerdictSet::NONE, |set, (_, verdict)| set.or(verdict))
}

/// A plugin that can be bound. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<Inner>,
}

struct Inner {
    host: Host,
    digest: Digest,
    manifest: Manifest,
    world: World,
    /// The component, for the second compilation.
    bytes: Box<[u8]>,
    /// Compiled so that its instructions are counted; rarely ever needed.
    fuelled: OnceLock<World>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { digest, manifest, .. } = &*self.inner;
        f.debug_struct("Plugin").field("digest", digest).field("manifest", manifest).finish()
    }
}

/// How a plugin is used: what its operator configured.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    /// Names and values for the plugin, each name once.
    pub options: Vec<(String, String)>,
    /// The topic that is read or produced to.
    pub input: String,
    /// The topics that a transform's verdicts name; none for a partitioner.
    pub outputs: Vec<String>,
}

impl Plugin {
    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// The version that counts: the SHA-256 of its file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    pub(crate) fn host(&self) -> &Host {
        &self.inner.host
    }

    /// An instance that is configured.
    pub(crate) fn instance(&self, config: &Config, bound: Bound) -> Result<Instance, LoadError> {
        let (engines, limits) = (self.host().engines(), self.host().limits());
        let world = match bound {
            Bound::Deadline(_) => &self.inner.world,
            Bound::Fuel(_) => self.fuelled()?,
        };
        let start = match bound {
            Bound::Deadline(_) => Bound::Deadline(limits.start_deadline),
            fuel @ Bound::Fuel(_) => fuel,
        };
        let made = Instance::new(engines, world, limits, start).map_err(LoadError::Start);
        let mut instance = made?;
        let configured = instance.configure(engines, start, config).map_err(LoadError::Start)?;
        configured.map_err(|said| LoadError::Configuration(cut(&said)))?;
        Ok(instance)
    }

    fn fuelled(&self) -> Result<&World, LoadError> {
        let Inner { host, bytes, fuelled, .. } = &*self.inner;
        if let Some(world) = fuelled.get() {
            return Ok(world);
        }
        let world = host.compile(bytes, &host.engines().fuelled)?;
        Ok(fuelled.get_or_init(|| world))
    }

    /// The configuration that instances are made with, refused where no plugin could take it.
    pub(crate) fn config(&self, binding: &Binding) -> Result<Config, LoadError> {
        let refuse = |message: &str| Err(LoadError::Configuration(message.to_owned()));
        let Binding { options, input, outputs } = binding;
        let bytes: usize = options.iter().map(|(name, value)| name.len() + value.len()).sum();
        if options.len() > abi::OPTIONS_MAX || bytes > abi::OPTIONS_BYTES_MAX {
            return refuse("there are more than 256 options, or more than 64 KiB of them");
        }
        let mut names: Vec<&str> = options.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return refuse("an option is given twice");
        }
        match self.manifest().kind {
            Kind::Transform if outputs.is_empty() => {
                return refuse("a transform needs an output topic");
            }
            Kind::Partitioner if !outputs.is_empty() => {
                return refuse("a partitioner has no output topics");
            }
            _ if outputs.len() > usize::from(abi::OUTPUTS_MAX) => {
                return refuse("there are more than 64 output topics");
            }
            _ => {}
        }
        Ok(Config {
            abi: self.manifest().layout,
            options: options.clone(),
            input: input.clone(),
            outputs: outputs.clone(),
        })
    }
}

/// What a plugin said, as far as it is kept.
pub(crate) fn cut(said: &str) -> String {
    guest::cut(said, abi::ERROR_BYTES_MAX)
}

/// As a fault that is no record's: an instance that could be made before cannot be made now.
pub(crate) fn as_fault(error: &LoadError) -> Fault {
    Fault::Instance(error.to_string())
}

fn digest(bytes: &[u8]) -> Digest {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut digest = [0; 32];
    digest.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    Digest::from_bytes(digest)
}
