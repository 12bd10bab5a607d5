//! The exports of a guest, in the form that `docs/plugin-abi.md` calls by hand: arguments lie in
//! one arena that is rewound at the end of each export, results in memory that is reused, and there
//! is no post-return.
#![expect(unsafe_code, reason = "the canonical ABI is pointers")]

use core::cell::UnsafeCell;
use core::slice;

use millstream_plugin_abi::{ABI, ABI_OLDEST};

use crate::arena::Arena;
use crate::plugin::{Config, Error, Manifest, Partitioner, Result, Transform};
use crate::{Level, log, run};

/// The one instance of a plugin's type, and its memory.
#[derive(Debug)]
pub struct Instance<P>(UnsafeCell<State<P>>);

#[derive(Debug)]
struct State<P> {
    plugin: Option<P>,
    arguments: Arena,
    scratch: Arena,
    output: Vec<u8>,
    partitions: Vec<u32>,
    error: String,
    area: [usize; 6],
}

// SAFETY: a guest has one thread, and the host never calls it while a call is going on.
unsafe impl<P> Sync for Instance<P> {}

const NOT_CONFIGURED: Error = Error::text("called before it was configured");

impl<P> Instance<P> {
    /// Not configured yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "made by a macro, as a static")]
    pub const fn new() -> Instance<P> {
        Instance(UnsafeCell::new(State {
            plugin: None,
            arguments: Arena::new(),
            scratch: Arena::new(),
            output: Vec::new(),
            partitions: Vec::new(),
            error: String::new(),
            area: [0; 6],
        }))
    }

    #[expect(clippy::mut_from_ref, reason = "one export at a time takes it, once")]
    fn state(&self) -> &mut State<P> {
        // SAFETY: each export calls this once, and exports do not overlap.
        unsafe { &mut *self.0.get() }
    }

    /// `cabi_realloc`.
    pub fn realloc(&self, old: *mut u8, old_bytes: usize, bytes: usize) -> *mut u8 {
        let new = self.state().arguments.bytes(bytes);
        if old_bytes > 0 {
            // SAFETY: the host gives back what this function returned, with its length.
            let old = unsafe { slice::from_raw_parts(old, old_bytes) };
            let kept = bytes.min(old_bytes);
            new[..kept].copy_from_slice(&old[..kept]);
        }
        new.as_mut_ptr()
    }

    /// `manifest`.
    pub fn manifest(&self, manifest: Manifest) -> *const u8 {
        let state = self.state();
        let bits = [1, manifest.needs.bits(), manifest.verdicts.bits(), 0];
        state.area = [
            manifest.name.as_ptr().addr(),
            manifest.name.len(),
            manifest.version.as_ptr().addr(),
            manifest.version.len(),
            usize::from(ABI_OLDEST) | usize::from(ABI) << 16,
            u32::from_le_bytes(bits) as usize,
        ];
        state.area.as_ptr().cast()
    }

    /// `configure`, whose lists are of pointers and lengths.
    pub fn configure(
        &self,
        abi: u32,
        options: (*const [usize; 4], usize),
        input: (*const u8, usize),
        outputs: (*const [usize; 2], usize),
        configure: fn(&Config<'_>) -> Result<P>,
    ) -> *const u8 {
        std::panic::set_hook(Box::new(|info| {
            let what = info.payload_as_str().unwrap_or("no message");
            let (file, line) =
                info.location().map_or(("", 0), |location| (location.file(), location.line()));
            log(Level::Error, &format!("panicked at {file}:{line}: {what}"));
        }));
        let state = self.state();
        // SAFETY: the host wrote lists and texts where `realloc` said, all of them in bounds, the
        // texts UTF-8, and none is used after this call.
        let (options, outputs, input) = unsafe {
            let options =
                list(options.0, options.1).iter().map(|[name, bytes, value, value_bytes]| {
                    (text(*name as *const u8, *bytes), text(*value as *const u8, *value_bytes))
                });
            let outputs = list(outputs.0, outputs.1)
                .iter()
                .map(|[pointer, bytes]| text(*pointer as *const u8, *bytes));
            (options.collect::<Vec<_>>(), outputs.collect::<Vec<_>>(), text(input.0, input.1))
        };
        let known = (u32::from(ABI_OLDEST)..=u32::from(ABI)).contains(&abi);
        let made = match known {
            true => configure(&Config::new(&options, input, &outputs)),
            false => Err(Error::new("this layout version is not known")),
        };
        let made = made.map(|plugin| state.plugin = Some(plugin));
        state.arguments.rewind();
        state.answer(made, |_| (core::ptr::null(), 0))
    }
}

impl<P: Transform> Instance<P> {
    /// `apply`.
    pub fn apply(&self, pointer: *const u8, bytes: usize) -> *const u8 {
        let state = self.state();
        // SAFETY: the host wrote the batch where `realloc` said.
        let batch = unsafe { list(pointer, bytes) };
        let applied = match &state.plugin {
            Some(plugin) => run::apply(plugin, batch, &state.scratch, &mut state.output),
            None => Err(NOT_CONFIGURED),
        };
        state.arguments.rewind();
        state.scratch.rewind();
        state.answer(applied, |state| (state.output.as_ptr(), state.output.len()))
    }
}

impl<P: Partitioner> Instance<P> {
    /// `hotlist`.
    pub fn hotlist(&self, pointer: *const u8, bytes: usize) {
        let state = self.state();
        // SAFETY: the host wrote the list where `realloc` said.
        let hot = unsafe { list(pointer, bytes) };
        let taken = match &mut state.plugin {
            Some(plugin) => run::hotlist(plugin, hot),
            None => Err(NOT_CONFIGURED),
        };
        state.arguments.rewind();
        trap_on(taken);
    }

    /// `assign`.
    pub fn assign(&self, pointer: *const u8, bytes: usize) -> *const u8 {
        let state = self.state();
        // SAFETY: the host wrote the keys where `realloc` said.
        let keys = unsafe { list(pointer, bytes) };
        let placed = match &state.plugin {
            Some(plugin) => run::assign(plugin, keys, &mut state.partitions),
            None => Err(NOT_CONFIGURED),
        };
        state.arguments.rewind();
        trap_on(placed);
        state.area[0] = state.partitions.as_ptr().addr();
        state.area[1] = state.partitions.len();
        state.area.as_ptr().cast()
    }
}

impl<P> State<P> {
    /// A `result` in the return area: the payload is a pointer and a length.
    fn answer(
        &mut self,
        result: Result,
        payload: impl FnOnce(&State<P>) -> (*const u8, usize),
    ) -> *const u8 {
        let (pointer, bytes) = match result {
            Ok(()) => {
                self.area[0] = 0;
                payload(self)
            }
            Err(error) => {
                self.area[0] = 1;
                self.error.clear();
                self.error.push_str(error.reason());
                (self.error.as_ptr(), self.error.len())
            }
        };
        self.area[1] = pointer.addr();
        self.area[2] = bytes;
        self.area.as_ptr().cast()
    }
}

/// These exports have no error in their type.
fn trap_on(result: Result) {
    if let Err(error) = result {
        log(Level::Error, error.reason());
        core::arch::wasm32::unreachable();
    }
}

/// # Safety
/// The host wrote `count` items at `pointer`, which stay until the arguments are rewound.
unsafe fn list<'a, T>(pointer: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: as above; the arena's pieces are aligned to 8 bytes.
    unsafe { slice::from_raw_parts(pointer, count) }
}

/// # Safety
/// As [`list`], and the bytes are UTF-8, which the host vouches for.
unsafe fn text<'a>(pointer: *const u8, bytes: usize) -> &'a str {
    // SAFETY: as above.
    unsafe { core::str::from_utf8_unchecked(list(pointer, bytes)) }
}
