//! Runs the simulator over many seeds and says how to repeat those that fail.

#![expect(clippy::print_stdout, reason = "a command's output")]

use clap::Parser;
use millstream_sim::{Counts, Failure, Options, Outcome, Profile, simulate};

/// Runs a broker's partitions on a simulated disk, one run a seed, and checks what they promised.
#[derive(Debug, Parser)]
struct Args {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds to run, one after another
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Events a run
    #[arg(long, default_value_t = Options::default().steps)]
    steps: u64,
    /// What goes wrong, and how often; by default each profile has its turn
    #[arg(long, value_parser = Profile::ALL.iter().map(|profile| profile.name).collect::<Vec<_>>())]
    profile: Option<String>,
    /// Run each seed twice and compare the traces, the final disk included, byte for byte
    #[arg(long)]
    twice: bool,
    /// Print every event
    #[arg(long)]
    trace: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut counts = Counts::default();
    let mut failures = 0;
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        match run(&args, seed) {
            Ok(outcome) => {
                counts.add(&outcome.counts);
                if args.trace {
                    print!("{}", outcome.trace.text());
                }
                if args.seeds == 1 {
                    println!("seed {seed}: digest {:016x}", outcome.trace.digest());
                }
            }
            Err(problem) => {
                failures += 1;
                println!("{problem}");
            }
        }
    }
    println!("{} seeds, {failures} failed\n{counts:#?}", args.seeds);
    anyhow::ensure!(failures == 0, "{failures} of {} seeds failed", args.seeds);
    Ok(())
}

fn run(args: &Args, seed: u64) -> anyhow::Result<Outcome> {
    let profile = match &args.profile {
        Some(name) => Profile::named(name).ok_or_else(|| anyhow::anyhow!("no profile {name}"))?,
        None => Profile::of_seed(seed),
    };
    let options = Options { steps: args.steps, ..Options::default() };
    let first = simulate(seed, profile, options).map_err(|failure| report(args, &failure))?;
    if args.twice {
        let second = simulate(seed, profile, options).map_err(|failure| report(args, &failure))?;
        anyhow::ensure!(
            first.trace == second.trace,
            "seed {seed} of profile {}: two runs differ",
            profile.name
        );
    }
    Ok(first)
}

/// The failure, and the command that repeats it.
fn report(args: &Args, failure: &Failure) -> anyhow::Error {
    if args.trace {
        print!("{}", failure.trace.text());
    }
    anyhow::anyhow!(
        "{failure}\n  cargo run --release -p millstream-sim --example sim -- \
         --seed {} --steps {} --profile {} --trace",
        failure.seed,
        args.steps,
        failure.profile
    )
}
