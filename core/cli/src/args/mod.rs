//! Every command, flag, default and environment variable, defined once: help, completions and
//! parsing all come from here.

mod archive;
mod bench;
mod connection;
mod consume;
mod demo;
mod produce;
mod serve;
mod topic;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub use archive::{
    ArchiveAction, ArchiveArgs, ArchiveRestoreArgs, ArchiveStatusArgs, ArchiveVerifyArgs,
};
pub use bench::{
    Acks, BenchAction, BenchArgs, BenchMode, BenchVerifyArgs, Durability, LoadArgs, PayloadKind,
};
pub use connection::ConnectionArgs;
pub(crate) use connection::DEFAULT_CA;
pub use consume::{ConsumeArgs, StartAt};
pub use demo::DemoArgs;
pub use produce::{BatchingArgs, ProduceArgs};
pub use serve::ServeArgs;
pub use topic::{
    ConfigAssignment, TopicAction, TopicAlterArgs, TopicArgs, TopicConfigsArgs, TopicCreateArgs,
    TopicDeleteArgs, TopicDescribeArgs, TopicListArgs,
};

/// Streams of records over QUIC, in one binary
///
/// Producers append records to partitioned topics; the broker keeps them on disk in order, survives
/// kill -9 without losing an acknowledged one, and pushes them to whoever subscribes. Start a
/// broker with `millstream serve`; every other command is a client of one, and by default talks to
/// localhost:9092 and trusts the certificate authority in ./millstream-data.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "millstream",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  millstream demo                                   see it work, in a few seconds
  millstream serve                                  start a broker on this machine
  millstream topic create orders --partitions 6     make a topic
  echo 'alice:hello' | millstream produce orders --key-separator :
  millstream consume orders --from earliest --follow

Exit codes: 0 it worked, 1 it failed (standard error says why), 2 the command line is wrong;
130, 143 and 129 it was ended by Ctrl-C, SIGTERM or a hangup."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do. Each command's own arguments describe it, in help as well.
#[derive(Subcommand, Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one value a process, made by clap")]
#[expect(missing_docs, reason = "a text here would hide that of the arguments from help")]
pub enum Command {
    Serve(ServeArgs),
    Demo(DemoArgs),
    Topic(TopicArgs),
    Produce(ProduceArgs),
    Consume(ConsumeArgs),
    Archive(ArchiveArgs),
    Bench(BenchArgs),
    Completions(CompletionsArgs),
}

/// Print a completion script for a shell
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  millstream completions bash > ~/.local/share/bash-completion/completions/millstream
  millstream completions zsh  > ~/.zfunc/_millstream
  millstream completions fish > ~/.config/fish/completions/millstream.fish")]
pub struct CompletionsArgs {
    /// The shell to write for
    #[arg(value_enum)]
    pub shell: Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command with its path, the outermost first.
    fn commands(command: &clap::Command, path: &str, into: &mut Vec<(String, clap::Command)>) {
        let path = if path.is_empty() {
            command.get_name().to_owned()
        } else {
            format!("{path}-{}", command.get_name())
        };
        into.push((path.clone(), command.clone()));
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            commands(inner, &path, into);
        }
    }

    #[test]
    fn help_reads_as_recorded() {
        let mut root = Cli::command().term_width(100);
        root.build();
        let mut all = Vec::new();
        commands(&root, "", &mut all);
        assert!(all.len() > 12, "found only {} commands", all.len());
        for (path, mut command) in all {
            let help = command.render_long_help().to_string();
            let mut settings = insta::Settings::clone_current();
            settings.set_prepend_module_to_snapshot(false);
            settings.set_omit_expression(true);
            settings.bind(|| insta::assert_snapshot!(format!("help-{path}"), help));
        }
    }

    #[test]
    fn every_command_that_prints_data_offers_json() {
        let mut root = Cli::command();
        root.build();
        let mut all = Vec::new();
        commands(&root, "", &mut all);
        for (path, command) in all {
            let leaf = command.get_subcommands().next().is_none() || path == "millstream-bench";
            let silent = path == "millstream-completions";
            let offers = command.get_arguments().any(|arg| arg.get_id() == "output");
            assert!(!leaf || silent || offers, "{path} has no --output");
        }
    }
}
