//! The threads that encode and decode: they give way to whoever serves clients, since a range that
//! is archived a little later, or an old record that comes a little later, hurts nobody.

use std::sync::OnceLock;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Runs `work` on one of the process's workers, of which there are as many as processors. What
/// waits for one has no bound here; callers have.
///
/// # Errors
/// The result is one when `work` panicked.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    static WORKERS: OnceLock<Option<Runtime>> = OnceLock::new();
    match WORKERS.get_or_init(|| start().ok()) {
        Some(workers) => workers.spawn_blocking(work),
        // Without threads of its own the work is done where all blocking work is.
        None => tokio::task::spawn_blocking(work),
    }
}

/// A runtime for its pool of threads alone: nothing else is ever spawned on it.
fn start() -> std::io::Result<Runtime> {
    Builder::new_current_thread()
        .thread_name("archive")
        .max_blocking_threads(available_parallelism().map_or(1, usize::from))
        .on_thread_start(|| {
            if let Err(error) = millstream_env::priority::yield_to_others() {
                tracing::warn!(%error, "archiving competes with clients for processors");
            }
        })
        .build()
}
