//! The command line of Millstream: everything except running the broker, which the binary hands
//! in. Commands are clients of a broker; `demo` and `bench` start one as a process of its own, by
//! running this same executable with `serve`.

mod archive;
pub mod args;
mod base64;
mod bench;
mod completions;
mod connect;
mod consume;
mod demo;
mod failure;
mod json_record;
mod output;
mod own_broker;
mod produce;
mod signals;
mod topic;
mod usage;
mod values;

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use args::{Cli, Command, ServeArgs};
use signals::{Ended, Endings};

pub use bench::{Schedule, Timer};
pub use consume::{Piece, Template};
pub use failure::advised;
pub use output::{Format, OutputArgs};
pub use own_broker::Ready;
pub use usage::Usage;
pub use values::{ByteSize, parse_timestamp_ms};

/// Runs a command and returns the process's exit code: 0 it worked, 1 it failed, with the reason
/// and what to do next on standard error, 2 where the command line is wrong, for which parsing
/// [`Cli`] ends the process as well; 128 and its number for a signal that ended it.
///
/// `serve` runs the broker until it is told to stop; it calls [`Ready::print`] once clients can
/// connect.
pub fn run(cli: Cli, serve: impl FnOnce(&ServeArgs) -> Result<()>) -> ExitCode {
    let result = match cli.command {
        Command::Serve(args) => serve(&args),
        command => run_client(command),
    };
    failure::exit_code(result)
}

fn run_client(command: Command) -> Result<()> {
    // One thread: a wake-up of another core costs more than these commands have work for.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // Ctrl-C is the only end that following a topic has.
    let ends_by_signal = matches!(&command, Command::Consume(args) if args.follow);
    let result = runtime.block_on(async {
        // From before the first process is started.
        let mut endings = Endings::receive()?;
        tokio::select! {
            result = run_command(command) => result,
            ending = endings.next() => {
                if ends_by_signal { Ok(()) } else { Err(Ended(ending).into()) }
            }
        }
    });
    // A read of standard input that never returns must not keep the process.
    runtime.shutdown_background();
    result
}

async fn run_command(command: Command) -> Result<()> {
    // Boxed, since the sum of all commands' states would be moved around for each.
    match command {
        Command::Serve(_) => unreachable_serve(),
        Command::Demo(args) => Box::pin(demo::run(args)).await,
        Command::Topic(args) => Box::pin(topic::run(args)).await,
        Command::Produce(args) => Box::pin(produce::run(args)).await,
        Command::Consume(args) => Box::pin(consume::run(args)).await,
        Command::Archive(args) => Box::pin(archive::run(args)).await,
        Command::Bench(args) => Box::pin(bench::run(args)).await,
        Command::Completions(args) => completions::run(&args),
    }
}

fn unreachable_serve() -> Result<()> {
    anyhow::bail!("serve is run by the binary, not as a client")
}
