//! `millstream completions`.

use anyhow::Result;
use clap::CommandFactory as _;

use crate::args::{Cli, CompletionsArgs};
use crate::output::{Out, OutputArgs};

pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    let mut out = Out::new(&OutputArgs::default());
    out.bytes(&script(args.shell))?;
    out.flush()
}

fn script(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "millstream", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_shell_learns_the_commands() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for word in ["produce", "consume", "bootstrap"] {
                assert!(script.contains(word), "{shell} does not know {word}");
            }
        }
    }
}
