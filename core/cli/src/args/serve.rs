//! The flags of `millstream serve`. All are optional here: what is absent comes from the
//! environment, then the config file, then the broker's defaults.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::output::OutputArgs;

/// Run a broker
///
/// Keeps everything in one directory: the log, the cluster's metadata, and the certificate
/// authority that local commands find and trust by themselves. Listens on loopback until told
/// otherwise; beyond loopback it refuses to start unless clients must show a certificate
/// (--client-ca), or --insecure says that anyone may come in. Traffic is always encrypted.
///
/// SIGTERM or Ctrl-C ends it cleanly; kill -9 loses no acknowledged record of a topic with
/// durability=fsync, the default.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "\
Configuration:
  A flag overrides the environment, which overrides the config file, which overrides the default.
  The file is TOML; the environment names its keys as MILLSTREAM_SECTION__KEY.
  Logs go to standard error. MILLSTREAM_LOG says how much: error, warn, info (default), debug, or
  by module, such as info,millstream_net=debug. MILLSTREAM_LOG_FORMAT=json makes each a JSON line.

Examples:
  millstream serve
  millstream serve --dir /var/lib/millstream --listen 127.0.0.1:9192
  millstream serve --listen 0.0.0.0:9092 --advertised broker.example:9092 --client-ca cluster
  millstream serve --archive s3://bucket/millstream
  millstream serve -o json      print one line of JSON when ready: its address and its authority")]
pub struct ServeArgs {
    /// Where everything is kept; made if it does not exist [default: ./millstream-data]
    ///
    /// [env: MILLSTREAM_BROKER__DIR]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The UDP address to serve QUIC on; port 0 takes any free port [default: 127.0.0.1:9092]
    ///
    /// [env: MILLSTREAM_LISTEN__QUIC]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where clients are told to find this broker; needed when listening on all addresses [default:
    /// the address that is served]
    ///
    /// [env: MILLSTREAM_LISTEN__ADVERTISED]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertised: Option<String>,
    /// Settings as TOML; see docs/configuration.md
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Take connections from beyond this machine without asking who they are [default: false]
    ///
    /// [env: MILLSTREAM_TLS__INSECURE]
    #[arg(long)]
    pub insecure: bool,
    /// Start although a failed fsync fenced the directory, after checking every log
    #[arg(long)]
    pub repair: bool,
    /// The broker's own certificate chain, as PEM [default: made in DIR/tls]
    ///
    /// [env: MILLSTREAM_TLS__CERT_FILE]
    #[arg(long, value_name = "FILE", requires = "cert_key")]
    pub cert: Option<PathBuf>,
    /// The private key of --cert, as PEM [default: made with the certificate]
    ///
    /// [env: MILLSTREAM_TLS__KEY_FILE]
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub cert_key: Option<PathBuf>,
    /// Admit only clients whose certificate this authority signed, as PEM; `cluster` for its own
    /// [default: on loopback anyone is admitted]
    ///
    /// [env: MILLSTREAM_TLS__CLIENT_CA_FILE]
    #[arg(long, value_name = "FILE|cluster")]
    pub client_ca: Option<PathBuf>,
    /// Where topics with remote.storage.enable=true are archived: a directory, or
    /// s3://bucket/prefix with credentials from the AWS_ variables [default: DIR/archive]
    ///
    /// [env: MILLSTREAM_ARCHIVE__LOCATION]
    #[arg(long, value_name = "LOCATION")]
    pub archive: Option<String>,
    /// Threads that serve the network [default: half the processors]
    ///
    /// [env: MILLSTREAM_BROKER__NETWORK_THREADS]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub network_threads: Option<u16>,
    /// Stop when standard input ends: whoever started the broker holds it, and may be killed
    #[arg(long, hide = true)]
    pub end_with_stdin: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl ServeArgs {
    /// The flags that were given, as `section.key` of the broker's config and a TOML value.
    /// --config, --repair, --end-with-stdin and --output are no settings and not among them.
    #[must_use]
    pub fn overrides(&self) -> Vec<(String, String)> {
        let text = |value: &dyn std::fmt::Display| {
            // A JSON string is a TOML basic string, so that no path is taken for a number.
            serde_json::Value::from(value.to_string()).to_string()
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| text(&path.display()));
        let settings = [
            ("broker.dir", path(&self.dir)),
            ("listen.quic", self.listen.map(|address| text(&address))),
            ("listen.advertised", self.advertised.as_ref().map(|at| text(at))),
            ("tls.insecure", self.insecure.then(|| "true".to_owned())),
            ("tls.cert_file", path(&self.cert)),
            ("tls.key_file", path(&self.cert_key)),
            ("tls.client_ca_file", path(&self.client_ca)),
            ("archive.location", self.archive.as_ref().map(|location| text(location))),
            ("broker.network_threads", self.network_threads.map(|count| count.to_string())),
        ];
        settings.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_that_were_given_override() {
        assert_eq!(ServeArgs::default().overrides(), []);
        let args = ServeArgs {
            dir: Some(PathBuf::from("7")),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            insecure: true,
            network_threads: Some(2),
            ..ServeArgs::default()
        };
        let expected = [
            ("broker.dir", "\"7\""),
            ("listen.quic", "\"127.0.0.1:0\""),
            ("tls.insecure", "true"),
            ("broker.network_threads", "2"),
        ];
        assert_eq!(
            args.overrides(),
            expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }

    /// The broker reads these variables itself, so that clap cannot tell of them.
    #[test]
    fn help_names_the_variable_of_every_setting() {
        let path = || Some(PathBuf::from("p"));
        let args = ServeArgs {
            dir: path(),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            advertised: Some("a:1".to_owned()),
            insecure: true,
            cert: path(),
            cert_key: path(),
            client_ca: path(),
            archive: Some("s3://bucket".to_owned()),
            network_threads: Some(1),
            ..ServeArgs::default()
        };
        let mut command = ServeArgs::augment_args(clap::Command::new("serve"));
        let help = command.render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let settings = args.overrides();
        assert_eq!(settings.len(), 9);
        for (key, _) in settings {
            let variable = format!("MILLSTREAM_{}", key.replace('.', "__").to_uppercase());
            assert!(help.contains(&format!("[env: {variable}]")), "{variable}");
        }
    }
}
