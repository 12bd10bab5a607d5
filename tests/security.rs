//! Nobody comes in who should not: beyond loopback a broker wants to know its clients, a client
//! wants to know its broker, and keys are for their owner.

use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use millstream_tests::{Broker, Options, command, failure, run, success};

const WITHIN: Duration = Duration::from_secs(60);

fn beyond_loopback(arguments: &[&str]) -> Options {
    Options {
        arguments: ["--advertised", "127.0.0.1"]
            .iter()
            .chain(arguments)
            .map(|&argument| argument.to_owned())
            .collect(),
        listen: SocketAddr::from(([0, 0, 0, 0], 0)),
        ..Options::default()
    }
}

/// `topic list` of a client on this machine, with these further flags.
fn topic_list(broker: &Broker, flags: &[&str]) -> Result<std::process::Output> {
    let mut command = command()?;
    command.args(["topic", "list", "--timeout", "3s"]).args(flags);
    command.args(["--bootstrap", &format!("127.0.0.1:{}", broker.quic().port())]);
    command.arg("--ca").arg(broker.ca());
    run(command, &[], WITHIN)
}

#[test]
fn beyond_loopback_a_broker_asks_who_is_there() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let refused = Broker::start_with(&data, &beyond_loopback(&[]));
    let refused = format!("{:#}", refused.err().context("it must not start")?);
    for word in ["--insecure", "client_ca_file", "0.0.0.0"] {
        assert!(refused.contains(word), "no {word} in: {refused}");
    }
    assert!(!data.join("millstream.json").exists(), "a refused start leaves no data");

    let broker = Broker::start_with(&data, &beyond_loopback(&["--insecure"]))?;
    success(&topic_list(&broker, &[])?)?;
    Ok(())
}

#[test]
fn clients_reach_the_endpoint_that_they_are_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let everywhere = beyond_loopback(&["--insecure"]);
    let v6 = Options { listen: SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), ..Options::default() };
    for (name, options) in [("everywhere", everywhere), ("v6", v6)] {
        let broker = Broker::start_with(&dir.path().join(name), &options)?;
        let client = |arguments: &[&str], input: &[u8]| -> Result<std::process::Output> {
            let mut client = broker.command()?;
            if broker.quic().ip().is_unspecified() {
                client.env("MILLSTREAM_BOOTSTRAP", format!("127.0.0.1:{}", broker.quic().port()));
            }
            client.args(arguments);
            run(client, input, WITHIN)
        };
        success(&client(&["topic", "create", "t"], &[])?)?;
        success(&client(&["produce", "t"], b"one\ntwo\n")?)?;
        assert_eq!(success(&client(&["consume", "t"], &[])?)?, "one\ntwo\n", "{name}");
    }

    let nowhere = Options {
        arguments: vec!["--insecure".to_owned()],
        listen: SocketAddr::from(([0, 0, 0, 0], 0)),
        ..Options::default()
    };
    let refused = Broker::start_with(&dir.path().join("nowhere"), &nowhere);
    let refused = format!("{:#}", refused.err().context("it must not start")?);
    assert!(refused.contains("advertised"), "{refused}");
    Ok(())
}

#[test]
fn a_lost_authority_key_is_not_replaced_in_silence() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    Broker::start(&data)?.terminate(Duration::from_secs(30))?;
    std::fs::remove_file(data.join("tls/ca.key"))?;
    let refused = Broker::start(&data);
    let refused = format!("{:#}", refused.err().context("it must not start")?);
    assert!(refused.contains("ca.key"), "{refused}");
    Ok(())
}

#[test]
fn clients_show_a_certificate_of_the_cluster() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start_with(&data, &beyond_loopback(&["--client-ca", "cluster"]))?;
    let path = |data: &Path, name: &str| data.join("tls").join(name).display().to_string();
    let (cert, key) = (path(&data, "admin.pem"), path(&data, "admin.key"));
    success(&topic_list(&broker, &["--cert", &cert, "--cert-key", &key])?)?;

    let nameless = failure(&topic_list(&broker, &[])?, 1)?;
    assert!(nameless.contains("certificate"), "{nameless}");
    assert!(nameless.contains("--cert"), "it does not say what to do: {nameless}");

    // Another cluster's administrator is nobody here.
    let other = dir.path().join("other");
    let stranger = Broker::start_with(&other, &beyond_loopback(&["--client-ca", "cluster"]))?;
    let (cert, key) = (path(&other, "admin.pem"), path(&other, "admin.key"));
    success(&topic_list(&stranger, &["--cert", &cert, "--cert-key", &key])?)?;
    let refused = failure(&topic_list(&broker, &["--cert", &cert, "--cert-key", &key])?, 1)?;
    assert!(refused.contains("certificate"), "{refused}");

    // The broker is none the worse.
    let (status, log) = broker.terminate(Duration::from_secs(30))?;
    assert!(status.success() && !log.contains("panicked"), "{log}");
    Ok(())
}

#[test]
fn a_client_refuses_a_broker_of_another_cluster() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(&dir.path().join("data"))?;
    let other = Broker::start(&dir.path().join("other"))?;
    let ca = other.ca().display().to_string();
    let mut command = broker.command()?;
    command.env("MILLSTREAM_CA", &ca).args(["topic", "list", "--timeout", "3s"]);
    let refused = failure(&run(command, &[], WITHIN)?, 1)?;
    assert!(refused.contains("certificate"), "{refused}");
    success(&topic_list(&broker, &[])?)?;
    Ok(())
}

#[test]
fn keys_are_for_their_owner_and_outlive_a_restart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let options =
        Options { arguments: vec!["--client-ca".into(), "cluster".into()], ..Options::default() };
    let broker = Broker::start_with(&data, &options)?;
    let mut keys = 0;
    for entry in std::fs::read_dir(data.join("tls"))? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        if text.contains("PRIVATE KEY") {
            let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{} has mode {mode:o}", path.display());
            keys += 1;
        }
    }
    assert_eq!(keys, 2, "the authority's and the administrator's");

    let ca = std::fs::read(broker.ca())?;
    broker.kill9()?;
    let broker = Broker::start_with(&data, &options)?;
    assert_eq!(std::fs::read(broker.ca())?, ca, "clients go on trusting it");
    Ok(())
}
