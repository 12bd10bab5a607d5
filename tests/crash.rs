//! A broker that is killed with SIGKILL, again and again, loses nothing that it acknowledged: no
//! record of a topic with durability=fsync, and no topic.
//!
//! A soak: `MILLSTREAM_KILLS=50 cargo test -p millstream-tests --test crash`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use millstream_tests::{
    Broker, Dice, Load, Options, Phoenix, consume, failure, json_lines, knob, pause, run, success,
    topics, verify,
};
use serde_json::Value;

/// A client's command may span several restarts.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn every_acknowledged_record_survives_kill_9() -> Result<()> {
    let kills = knob("MILLSTREAM_KILLS", 4)?;
    let mut dice = Dice::new(knob("MILLSTREAM_SEED", 1)?);
    let dir = tempfile::tempdir()?;
    let mut phoenix = Phoenix::start(&dir.path().join("data"), Options::default())?;
    let mut ack_logs = Vec::new();
    let mut load = Load::start(&phoenix.broker, dir.path(), 0, &[])?;
    let mut killed = 0;
    while killed < kills {
        pause(Duration::from_millis(100 + dice.below(900)));
        if !load.is_running()? {
            ack_logs.push(load.finish()?);
            load = Load::start(&phoenix.broker, dir.path(), ack_logs.len(), &[])?;
            continue;
        }
        phoenix = phoenix.kill_and_restart()?;
        killed += 1;
    }
    ack_logs.push(load.finish()?);

    let mut acknowledged = 0;
    for ack_log in &ack_logs {
        let count = verify(&phoenix.broker, ack_log)?;
        ensure!(count > 0, "a load without an acknowledgement proves nothing");
        acknowledged += count;
    }
    // Opened once more after an orderly end, it is all still there.
    let (status, log) = phoenix.broker.terminate(Duration::from_secs(30))?;
    ensure!(status.success() && !log.contains("panicked"), "{status}:\n{log}");
    let broker = Broker::start(&phoenix.data)?;
    for ack_log in &ack_logs {
        verify(&broker, ack_log)?;
    }
    println!("{killed} kills, {acknowledged} acknowledged records, each there once and in order");
    Ok(())
}

/// A check that cannot fail checks nothing.
#[test]
fn an_acknowledged_record_that_is_gone_is_noticed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(&dir.path().join("data"))?;
    let ack_log = dir.path().join("acks.jsonl");
    let arguments = ["bench", "--topic", "t", "-n", "100", "--partitions", "2", "--ack-log"];
    let mut command = broker.command()?;
    command.args(arguments).arg(&ack_log);
    success(&run(command, &[], COMMAND_WITHIN)?)?;
    assert_eq!(verify(&broker, &ack_log)?, 100);

    let mut text = std::fs::read_to_string(&ack_log)?;
    let last = json_lines(&text)?.pop().context("the log is empty")?;
    let mut lost = last.clone();
    for (field, end) in [("offset", &last["offset"]), ("sequence", &last["sequence"])] {
        let end = end.as_u64().context("a run has numbers")?;
        lost[field] = (end + last["count"].as_u64().context("a run has a count")?).into();
    }
    lost["count"] = 1.into();
    text.push_str(&format!("{lost}\n"));
    std::fs::write(&ack_log, text)?;
    let mut command = broker.command()?;
    command.args(["bench", "verify", "--ack-log"]).arg(&ack_log);
    let said = failure(&run(command, &[], COMMAND_WITHIN)?, 1)?;
    assert!(said.contains("was acknowledged at offset"), "{said}");
    Ok(())
}

/// What happens to topic `number`, in this order, while the broker is killed. Every fourth topic
/// is deleted in the end.
fn topic_steps(number: usize) -> Vec<Vec<String>> {
    let name = topic_name(number);
    let step = |words: &str| -> Vec<String> {
        words.replace("NAME", &name).split(' ').map(str::to_owned).collect()
    };
    let mut steps = vec![
        step("topic create NAME --partitions 3 --config retention.ms=1000000"),
        step("produce NAME --json"),
        step("topic alter NAME --partitions 5 --config retention.ms=2000000"),
    ];
    if is_deleted(number) {
        steps.push(step("topic delete NAME --if-exists"));
    }
    steps
}

fn topic_name(number: usize) -> String {
    format!("topic-{number}")
}

fn is_deleted(number: usize) -> bool {
    number % 4 == 3
}

/// Runs a step until it succeeds: whatever a crash interrupts may be asked for again.
fn insist(arguments: &[String], broker: SocketAddr, ca: &Path) -> Result<()> {
    let mut last = String::new();
    for _ in 0..20 {
        let mut command: Command = millstream_tests::command()?;
        command.args(arguments).args(["--timeout", "20s"]);
        command.env("MILLSTREAM_BOOTSTRAP", broker.to_string()).env("MILLSTREAM_CA", ca);
        // One record for each partition that the topic is made with, so that it has files.
        let input = if arguments[0] == "produce" {
            "{\"partition\":0}\n{\"partition\":1}\n{\"partition\":2}\n"
        } else {
            ""
        };
        let output = run(command, input.as_bytes(), COMMAND_WITHIN)?;
        if output.status.success() {
            return Ok(());
        }
        last = failure(&output, 1)?;
    }
    bail!("{arguments:?} does not succeed, however often it is tried: {last}")
}

/// Makes, changes and deletes topics until it is told to stop; returns how many it came to.
fn change_topics(broker: SocketAddr, ca: &Path, stop: &AtomicBool) -> Result<usize> {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) || number < 4 {
        for step in topic_steps(number) {
            insist(&step, broker, ca)?;
        }
        number += 1;
    }
    Ok(number)
}

fn check_topics(broker: &Broker, data: &Path, count: usize) -> Result<()> {
    let mut listed = topics(broker)?;
    listed.sort();
    let mut expected: Vec<String> =
        (0..count).filter(|number| !is_deleted(*number)).map(topic_name).collect();
    expected.sort();
    let names: Vec<&String> = listed.iter().map(|(name, _)| name).collect();
    ensure!(names == expected.iter().collect::<Vec<_>>(), "{names:?} is not {expected:?}");

    let mut ids: Vec<&String> = listed.iter().map(|(_, id)| id).collect();
    ids.sort();
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(data.join("topics"))? {
        kept.push(entry?.file_name().to_string_lossy().into_owned());
    }
    kept.sort();
    ensure!(kept.iter().collect::<Vec<_>>() == ids, "directories {kept:?}, topics {ids:?}");

    for name in &expected {
        let described = broker.millstream(&["topic", "describe", name, "-o", "json"])?;
        let described: Value = serde_json::from_str(&success(&described)?)?;
        let partitions = described["partitions"].as_array().context("no partitions")?;
        ensure!(partitions.len() == 5, "{name} has {} partitions", partitions.len());
        ensure!(partitions.iter().all(|partition| partition["leader"] == 1), "{described}");
        let configs = described["configs"].as_array().context("no configs")?;
        let retention = configs.iter().find(|config| config["name"] == "retention.ms");
        ensure!(retention.is_some_and(|config| config["value"] == "2000000"), "{described}");
        // A step that is repeated may have stored its records before, but never fewer.
        let records = consume(broker, name, &[])?;
        ensure!(records.len() >= 3, "{name} has {} records", records.len());
    }
    Ok(())
}

#[test]
fn topics_survive_kill_9_at_any_point() -> Result<()> {
    let kills = knob("MILLSTREAM_KILLS", 6)?;
    let mut dice = Dice::new(knob("MILLSTREAM_SEED", 1)?);
    let dir = tempfile::tempdir()?;
    let mut phoenix = Phoenix::start(&dir.path().join("data"), Options::default())?;
    let (address, ca) = (phoenix.broker.quic(), phoenix.broker.ca().to_owned());
    let stop = AtomicBool::new(false);
    let count = std::thread::scope(|scope| -> Result<usize> {
        let changing = scope.spawn(|| change_topics(address, &ca, &stop));
        let killing = || -> Result<Phoenix> {
            for _ in 0..kills {
                pause(Duration::from_millis(dice.below(1200)));
                phoenix = phoenix.kill_and_restart()?;
            }
            Ok(phoenix)
        };
        let killed = killing();
        stop.store(true, Ordering::Relaxed);
        // The broker must live until the last change is through.
        let changed = changing.join().map_err(|_| anyhow::anyhow!("the changes panicked"))?;
        let phoenix = killed?;
        let count = changed?;
        check_topics(&phoenix.broker, &phoenix.data, count)?;
        let phoenix = phoenix.kill_and_restart()?;
        check_topics(&phoenix.broker, &phoenix.data, count)?;
        Ok(count)
    })?;
    println!("{kills} kills while {count} topics were made, changed and deleted");
    Ok(())
}
