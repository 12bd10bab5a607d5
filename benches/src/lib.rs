//! What this machine could do at best, measured with as little code as possible, and the broker
//! beside it in the same run: ratios hold where absolute numbers do not.
//!
//! - `cargo bench -p millstream-benches --bench ceilings` measures the ceilings: a raw quinn stream
//!   between two processes in both directions, QUIC ping-pong, appends with and without fdatasync.
//! - `cargo bench -p millstream-benches --bench ratios` interleaves them with `millstream bench`
//!   runs of the release binary (build it first: `cargo build --release`) and prints medians and
//!   ratios.
//! - `cargo bench -p millstream-benches --bench cold_replay` runs a load beside a replay out of the
//!   archive, beside a raw stream of two other processes, and alone. It builds the release binary
//!   if need be; `MILLSTREAM_BIN` names another. A quarter of the MiB are replayed.
//!
//! All print a table, then everything as one line of JSON. The environment chooses:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `MILLSTREAM_BENCH_ROUNDS` | rounds, each of everything | 5 |
//! | `MILLSTREAM_BENCH_MIB` | MiB through each ceiling and each run of the broker | 1024 |
//! | `MILLSTREAM_BENCH_DIR` | where files are written | the system's temporary directory |
//! | `MILLSTREAM_BENCH_CPUS` | `BROKER:LOAD`, processors to pin both sides to | not pinned |
//! | `MILLSTREAM_BENCH_BIN` | the binary that `ratios` runs | `millstream` beside the benchmark |
//! | `MILLSTREAM_BENCH_ROWS` | the rows of `ratios`, by name, with commas | all |

pub mod append;
pub mod broker;
pub mod quic;
pub mod settings;
pub mod stats;
