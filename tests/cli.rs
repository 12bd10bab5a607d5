//! The command line keeps its word: what `-o json` prints parses, what goes in comes out, exit
//! codes are 0, 1 and 2, or the signal's that ended it, and a failure says what to do next.

#[path = "cli/signals.rs"]
mod signals;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millstream_tests::{Broker, consume, failure, json_lines, millstream, produce, run, success};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(60);

/// A directory to work in, and a broker in it.
fn broker() -> Result<(tempfile::TempDir, Broker)> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(&dir.path().join("data"))?;
    Ok((dir, broker))
}

fn json_of(output: &Output) -> Result<Vec<Value>> {
    let rows = json_lines(&success(output)?)?;
    ensure!(rows.iter().all(Value::is_object), "not an object: {rows:?}");
    Ok(rows)
}

fn consume_raw(broker: &Broker, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = broker.millstream(&[&["consume"], arguments].concat())?;
    success(&Output { stdout: Vec::new(), ..output.clone() })?;
    Ok(output.stdout)
}

#[test]
fn json_output_of_every_command_parses() -> Result<()> {
    let (dir, broker) = broker()?;
    let run = |words: &str| -> Result<Vec<Value>> {
        let arguments: Vec<&str> = words.split(' ').chain(["-o", "json"]).collect();
        json_of(&broker.millstream(&arguments)?).with_context(|| words.to_owned())
    };
    assert_eq!(run("topic list")?, Vec::<Value>::new());
    let created = run("topic create orders --partitions 2")?;
    assert_eq!(
        (&created[0]["topic"], &created[0]["result"]),
        (&"orders".into(), &"created".into())
    );
    let listed = run("topic list")?;
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["id"], &listed[0]["partitions"]), (&created[0]["id"], &2.into()));
    let summary = produce(&broker, "orders", &[json!({"value": "a"})], &[])?;
    assert_eq!(summary["records"], 1);
    assert_eq!(run("consume orders")?[0]["value"], "a");
    assert_eq!(run("topic alter orders --partitions 3")?[0]["result"], "altered");
    let described = run("topic describe orders")?;
    assert_eq!(described[0]["partitions"].as_array().map(Vec::len), Some(3));
    assert!(run("topic configs")?.iter().any(|config| config["name"] == "durability"));
    let status = run("archive status")?;
    assert_eq!((&status[0]["store_error"], &status[0]["partitions"]), (&Value::Null, &0.into()));
    assert_eq!(run("archive verify")?, Vec::<Value>::new());
    assert_eq!(run("archive restore --all")?, Vec::<Value>::new());
    let bench = run("bench --records 200 --record-size 100")?;
    assert!(bench[0].as_object().is_some_and(|report| report.len() > 5), "{bench:?}");
    let ack_log = dir.path().join("acks.jsonl");
    let ack_log = ack_log.to_str().context("a path that is no text")?;
    let soak = run(&format!("bench --topic soak --records 50 --ack-log {ack_log}"))?;
    assert_eq!(soak[0]["acknowledged"], 50);
    assert_eq!(run(&format!("bench verify --ack-log {ack_log}"))?[0]["records"], 50);
    assert_eq!(run("topic delete orders")?[0]["result"], "deleted");
    assert_eq!(run("topic delete orders --if-exists")?[0]["result"], "did not exist");
    Ok(())
}

#[test]
fn records_come_out_as_they_went_in() -> Result<()> {
    let (_dir, broker) = broker()?;
    success(&broker.millstream(&["topic", "create", "t", "--partitions", "3"])?)?;
    let records = [
        json!({"key": "k", "value": "text", "timestamp": 1_700_000_000_000_u64, "partition": 0}),
        json!({"key": "", "value": "", "timestamp": 1, "partition": 0}),
        json!({"key": null, "value": null, "timestamp": 2, "partition": 0}),
        json!({"key_base64": "/wA=", "value_base64": "AP/+gA==", "timestamp": 3, "partition": 0}),
        json!({
            "key": "headers",
            "value": "ünïcödé \u{1f980}",
            "headers": [["a", "1"], ["a", "2"], ["", null], ["b", {"base64": "/w=="}]],
            "timestamp": 4,
            "partition": 0,
        }),
    ];
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        produce(&broker, "t", &records, &["--compression", codec])?;
    }
    let read = consume(&broker, "t", &["--partition", "0"])?;
    assert_eq!(read.len(), 5 * records.len());
    for (offset, (read, sent)) in read.iter().zip(records.iter().cycle()).enumerate() {
        let mut expected = sent.clone();
        expected["topic"] = "t".into();
        expected["offset"] = offset.into();
        for (plain, encoded) in [("key", "key_base64"), ("value", "value_base64")] {
            if sent.get(plain).is_none() && sent.get(encoded).is_none() {
                expected[plain] = Value::Null;
            }
        }
        assert_eq!(*read, expected);
    }

    // What consume prints is what produce reads.
    success(&broker.millstream(&["topic", "create", "copy", "--partitions", "3"])?)?;
    produce(&broker, "copy", &read, &[])?;
    let mut copied = consume(&broker, "copy", &[])?;
    for record in &mut copied {
        record["topic"] = "t".into();
    }
    assert_eq!(copied, read);
    Ok(())
}

#[test]
fn bytes_of_files_and_lines_are_kept() -> Result<()> {
    let (dir, broker) = broker()?;
    success(&broker.millstream(&["topic", "create", "files"])?)?;
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let path = dir.path().join("blob");
    std::fs::write(&path, &bytes)?;
    let path = path.to_str().context("a path that is no text")?;
    success(&broker.millstream(&["produce", "files", "--file", path, "--key", "blob"])?)?;
    assert_eq!(consume_raw(&broker, &["files", "--format", "%v"])?, bytes);
    assert_eq!(
        consume_raw(&broker, &["files", "--format", "%k %s %p %o\\n"])?,
        b"blob 300000 0 0\n"
    );

    success(&broker.millstream(&["topic", "create", "lines"])?)?;
    let mut command = broker.command()?;
    command.args(["produce", "lines", "--key-separator", ":"]);
    success(&run(command, b"a:1\nb:2:3\n:4\n\xff:5", WITHIN)?)?;
    let printed = consume_raw(&broker, &["lines", "--format", "%k=%v;"])?;
    assert_eq!(printed, b"a=1;b=2:3;=4;\xff=5;");
    Ok(())
}

#[test]
fn consume_takes_a_part() -> Result<()> {
    let (_dir, broker) = broker()?;
    success(&broker.millstream(&["topic", "create", "t", "--partitions", "2"])?)?;
    let record = |number: u64| {
        let key = if number.is_multiple_of(3) { "third" } else { "other" };
        json!({"key": key, "value": number.to_string(), "timestamp": 1000 * number,
            "partition": number % 2})
    };
    let records: Vec<Value> = (0..30).map(record).collect();
    produce(&broker, "t", &records, &[])?;
    let values = |flags: &[&str]| -> Result<Vec<u64>> {
        let number = |record: &Value| {
            let text = record["value"].as_str().and_then(|value| value.parse().ok());
            text.with_context(|| format!("no number in {record}"))
        };
        let mut values =
            consume(&broker, "t", flags)?.iter().map(number).collect::<Result<Vec<_>>>()?;
        values.sort_unstable();
        Ok(values)
    };
    assert_eq!(values(&[])?, (0..30).collect::<Vec<_>>());
    assert_eq!(values(&["--partition", "1"])?, (0..30).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    assert_eq!(values(&["--partition", "0,1"])?.len(), 30);
    assert_eq!(values(&["--key", "third"])?, (0..30).step_by(3).collect::<Vec<_>>());
    assert_eq!(values(&["--key", "third", "-n", "4"])?.len(), 4);
    assert_eq!(values(&["--partition", "0", "-n", "3"])?, [0, 2, 4]);
    assert_eq!(values(&["--partition", "0", "--from", "12"])?, [24, 26, 28]);
    assert_eq!(values(&["--from", "@20000"])?, (20..30).collect::<Vec<_>>());
    assert_eq!(values(&["--from", "@1970-01-01T00:00:28.5Z"])?, [29]);
    assert_eq!(values(&["--from", "@99999999999999"])?, Vec::<u64>::new());
    assert_eq!(values(&["--from", "latest"])?, Vec::<u64>::new());
    Ok(())
}

#[test]
fn follow_prints_what_comes_later() -> Result<()> {
    let (_dir, broker) = broker()?;
    success(&broker.millstream(&["topic", "create", "t"])?)?;
    let mut command = broker.command()?;
    command.args(["consume", "t", "--follow", "-n", "3"]).stdout(Stdio::piped());
    let mut following = command.spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("no stdout")?).lines();
    let values = ["one", "two", "three"];
    for value in values {
        produce(&broker, "t", &[json!({"value": value})], &[])?;
        assert_eq!(lines.next().context("it ended early")??, value);
    }
    assert!(following.wait()?.success(), "it ends after three");
    Ok(())
}

#[test]
fn failures_say_what_to_do_next() -> Result<()> {
    let (dir, broker) = broker()?;
    let failed = |words: &str| -> Result<String> {
        let arguments: Vec<&str> = words.split(' ').collect();
        let said = failure(&broker.millstream(&arguments)?, 1)?;
        ensure!(said.starts_with("error: ") && said.contains("\nnext: "), "{words}: {said}");
        Ok(said)
    };
    success(&broker.millstream(&["topic", "create", "t"])?)?;
    for words in ["consume nope", "topic describe nope", "topic delete nope"] {
        let said = failed(words)?;
        assert!(said.contains("nope") && said.contains("millstream topic list"), "{words}: {said}");
    }
    let mut command = broker.command()?;
    command.args(["produce", "nope", "--timeout", "2s"]);
    let said = failure(&run(command, b"x\n", WITHIN)?, 1)?;
    assert!(said.contains("nope") && said.contains("millstream topic create"), "{said}");
    let said = failed("topic create t --partitions 2")?;
    assert!(said.contains("exists") && said.contains("topic alter"), "{said}");
    let said = failed("topic alter t --config retention.minutes=1")?;
    assert!(said.contains("retention.minutes") && said.contains("topic configs"), "{said}");
    let said = failure(&broker.millstream(&["consume", "t", "--partition", "7"])?, 1)?;
    assert!(said.contains("no partition 7"), "{said}");
    let said = failed("consume t --from 5")?;
    assert!(said.contains("offset 5") && said.contains("earliest"), "{said}");

    // Another cluster's authority, one that is no certificate, none at all.
    let stranger = Broker::start(&dir.path().join("stranger"))?;
    let trusting = |ca: Option<&Path>| -> Result<String> {
        let mut command = millstream_tests::command()?;
        command.args(["topic", "list", "--timeout", "3s"]).current_dir(dir.path());
        command.env("MILLSTREAM_BOOTSTRAP", broker.quic().to_string());
        if let Some(ca) = ca {
            command.env("MILLSTREAM_CA", ca);
        }
        failure(&run(command, &[], WITHIN)?, 1)
    };
    let said = trusting(Some(stranger.ca()))?;
    assert!(said.contains("certificate") && said.contains("--ca"), "{said}");
    let garbage = dir.path().join("garbage.pem");
    std::fs::write(&garbage, "no certificate")?;
    let said = trusting(Some(&garbage))?;
    assert!(said.contains("next: check --ca"), "{said}");
    let said = trusting(None)?;
    assert!(said.contains("--ca FILE") && said.contains("tls/ca.pem"), "{said}");

    // Nobody listens there.
    let (address, ca) = (broker.quic(), dir.path().join("ca.pem"));
    std::fs::copy(broker.ca(), &ca)?;
    drop(broker);
    let mut command = millstream_tests::command()?;
    command.args(["topic", "list", "--timeout", "1s"]);
    command.env("MILLSTREAM_BOOTSTRAP", address.to_string()).env("MILLSTREAM_CA", &ca);
    let said = failure(&run(command, &[], WITHIN)?, 1)?;
    assert!(said.contains(&address.to_string()) && said.contains("millstream serve"), "{said}");
    Ok(())
}

#[test]
fn input_that_is_wrong_is_named_by_its_place() -> Result<()> {
    let (_dir, broker) = broker()?;
    success(&broker.millstream(&["topic", "create", "t"])?)?;
    let mut command = broker.command()?;
    command.args(["produce", "t", "--json"]);
    let said = failure(&run(command, b"{\"value\":\"a\"}\n{oops\n", WITHIN)?, 1)?;
    assert!(said.contains("line 2"), "{said}");
    let mut command = broker.command()?;
    command.args(["produce", "t", "--json"]);
    let said = failure(&run(command, b"{\"value\":\"b\",\"partition\":9}\n", WITHIN)?, 1)?;
    assert!(said.contains("record 1") && said.contains('9'), "{said}");
    Ok(())
}

/// What programs read, and what people do, of how far it came.
#[test]
fn a_line_that_cannot_be_read_says_how_many_records_were_stored_before() -> Result<()> {
    let (_dir, broker) = broker()?;
    success(&broker.millstream(&["topic", "create", "t"])?)?;
    let produce = |input: &str, flags: &[&str]| {
        let mut command = broker.command()?;
        command.args(["produce", "t", "--json"]).args(flags);
        run(command, input.as_bytes(), WITHIN)
    };
    let input = "{\"value\":\"a\"}\n\n{\"value\":\"b\"}\n{oops\n{\"value\":\"c\"}\n";
    let said = failure(&produce(input, &[])?, 1)?;
    assert!(said.contains("2 records were stored") && said.contains("line 4"), "{said}");
    let output = produce(input, &["-o", "json"])?;
    failure(&output, 1)?;
    let summary: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&summary["records"], &summary["bytes"]), (&2.into(), &2.into()), "{summary}");
    assert!(summary["error"].as_str().is_some_and(|it| it.contains("line 4")), "{summary}");
    let blank = produce("\n{\"value\":\"d\"}\n \n", &["-o", "json"])?;
    assert_eq!(json_of(&blank)?[0]["records"], 1);
    let read = consume(&broker, "t", &[])?;
    let values: Vec<_> = read.iter().map(|record| record["value"].clone()).collect();
    assert_eq!(values, ["a", "b", "a", "b", "d"]);
    Ok(())
}

#[test]
fn what_the_flags_ask_for_in_vain_is_said_with_what_to_do() -> Result<()> {
    let (dir, broker) = broker()?;
    let misused = [
        "bench --record-size 10",
        "bench --dir d --bootstrap localhost:1",
        "produce t --max-in-flight 100",
        "produce t --batch-bytes 0",
        "produce t --buffer-bytes 1",
        "bench --max-in-flight 0",
    ];
    for words in misused {
        let arguments: Vec<&str> = words.split(' ').collect();
        let said = failure(&millstream(&arguments)?, 2)?;
        assert!(said.contains("next: "), "{words}: {said}");
    }
    success(&broker.millstream(&["topic", "create", "t"])?)?;
    let acks = dir.path().join("acks");
    std::fs::write(&acks, "no log\n")?;
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path that is no text");
    let verify = format!("bench verify --ack-log {}", path(&acks)?);
    let data = path(&dir.path().join("data"))?;
    let serve = format!("serve --listen 127.0.0.1:0 --dir {data}");
    let failed = [
        ("produce t -f /nonexistent", "--file"),
        ("produce t -p 9 -f /dev/stdin", "topic describe"),
        (verify.as_str(), "--ack-log"),
        (serve.as_str(), "--dir"),
        ("topic delete nosuch", "topic list"),
    ];
    for (words, advice) in failed {
        let mut command = broker.command()?;
        command.args(words.split(' '));
        let said = failure(&run(command, b"a\n", WITHIN)?, 1)?;
        let next = said.split_once("next: ").map(|(_, next)| next);
        assert!(next.is_some_and(|next| next.contains(advice)), "{words}: {said}");
    }
    let said = failure(&broker.millstream(&["topic", "alter", "t"])?, 2)?;
    assert!(said.contains("--partitions") && said.contains("--reset"), "{said}");
    let mut command = broker.command()?;
    command.args(["produce", "nosuch"]);
    let said = failure(&run(command, b"a\n", WITHIN)?, 1)?;
    assert_eq!(said.matches("nosuch").count(), 1, "{said}");
    Ok(())
}

#[test]
fn a_wrong_command_line_ends_with_2() -> Result<()> {
    let wrong: [&[&str]; 8] = [
        &[],
        &["explode"],
        &["topic", "create"],
        &["topic", "create", "t", "--partitions", "0"],
        &["consume", "t", "--from", "yesterday"],
        &["produce", "t", "--json", "--key", "k"],
        &["serve", "--listen", "everywhere"],
        &["bench", "--rate", "0"],
    ];
    for arguments in wrong {
        let said = failure(&millstream(arguments)?, 2)?;
        assert!(said.contains("--help") || said.contains("Usage"), "{arguments:?}: {said}");
    }
    for arguments in [&["--help"][..], &["help", "topic"], &["bench", "verify", "--help"]] {
        assert!(success(&millstream(arguments)?)?.contains("Usage"), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() -> Result<()> {
    let (_dir, broker) = broker()?;
    success(&broker.millstream(&["topic", "create", "t"])?)?;
    // More than a pipe and all buffers hold.
    let records: Vec<Value> = (0..3000).map(|_| json!({"value": "x".repeat(1000)})).collect();
    produce(&broker, "t", &records, &[])?;
    for format in [&["-o", "json"][..], &[]] {
        let mut command = broker.command()?;
        command.args(["consume", "t"]).args(format);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut consuming = command.spawn()?;
        let mut first = String::new();
        BufReader::new(consuming.stdout.take().context("no stdout")?).read_line(&mut first)?;
        let output = consuming.wait_with_output()?;
        assert_eq!(success(&output)?, "");
        assert!(first.len() > 1000 && output.stderr.is_empty(), "{output:?}");
    }
    Ok(())
}

#[test]
fn completions_are_made_for_each_shell() -> Result<()> {
    let mut scripts = BTreeSet::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = success(&millstream(&["completions", shell])?)?;
        for word in ["millstream", "produce", "consume", "bootstrap"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        scripts.insert(script);
    }
    assert_eq!(scripts.len(), 3);
    // Bash itself reads its own.
    let script = success(&millstream(&["completions", "bash"])?)?;
    let mut bash = std::process::Command::new("bash");
    bash.arg("-n");
    match run(bash, script.as_bytes(), WITHIN) {
        Ok(read) => drop(success(&read)?),
        Err(error) => println!("bash cannot be run here: {error:#}"),
    }
    Ok(())
}

#[test]
fn changes_that_come_again_change_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(&dir.path().join("data"))?;
    let topic = |arguments: &[&str]| broker.millstream(&[&["topic"], arguments].concat());
    for _ in 0..2 {
        success(&topic(&["create", "t", "--partitions", "2"])?)?;
    }
    let other = failure(&topic(&["create", "t", "--partitions", "3"])?, 1)?;
    assert!(other.contains("other settings"), "{other}");
    for _ in 0..2 {
        let change = ["alter", "t", "--partitions", "4", "--config", "retention.ms=777000"];
        success(&topic(&change)?)?;
    }
    let refused = ["alter", "t", "--partitions", "3", "--config", "retention.ms=888000"];
    failure(&topic(&refused)?, 1)?;
    let described = success(&topic(&["describe", "t", "-o", "json"])?)?;
    assert!(described.contains("777000") && !described.contains("888000"), "{described}");
    success(&topic(&["delete", "t"])?)?;
    failure(&topic(&["delete", "t"])?, 1)?;
    success(&topic(&["delete", "t", "--if-exists"])?)?;
    Ok(())
}
