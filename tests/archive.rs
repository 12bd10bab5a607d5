//! Old records leave the local disk for the archive, and nobody who reads them notices.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use millstream_net::ClientTls;
use millstream_net::client::{Connection, Connector, ConnectorConfig};
use millstream_tests::{
    Broker, Dice, Options, Phoenix, consume, failure, json_lines, partition_dir, pause, produce,
    python, success, topics, wait_until,
};
use millstream_types::{PartitionIndex, TimestampMs, TopicId};
use millstream_wire::api::{
    Acks, InitProducerRequest, OpenProduce, ProducerIdentity, Response, TraceId,
};
use millstream_wire::{BatchBuilder, Codec, ProducerStamp};
use serde_json::{Value, json};

const TOPIC: &str = "orders";
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that archives small ranges at once.
fn options(more: &[(&str, &str)]) -> Options {
    let set = [
        ("MILLSTREAM_ARCHIVE__RANGE_BYTES_MAX", "65536"),
        ("MILLSTREAM_ARCHIVE__INTERVAL_MS", "20"),
        ("MILLSTREAM_STORAGE__MAINTENANCE_INTERVAL_MS", "50"),
    ];
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let environment = set.iter().chain(more).map(owned).collect();
    Options { environment, ..Options::default() }
}

fn create(broker: &Broker, partitions: u32, configs: &[&str]) -> Result<()> {
    let partitions = partitions.to_string();
    let mut arguments = vec!["topic", "create", TOPIC, "-p", &partitions];
    let always = [
        "remote.storage.enable=true",
        "segment.bytes=65536",
        "archive.lag.max.ms=1000",
        "retention.ms=-1",
    ];
    for config in always.iter().chain(configs) {
        arguments.extend(["-c", config]);
    }
    success(&broker.millstream(&arguments)?).map(drop)
}

/// Records that no two are alike of, with keys, headers, nulls and times.
fn records(from: u64, to: u64) -> Vec<Value> {
    let mut dice = Dice::new(from + 1);
    let record = |number: u64| {
        let filler = "x".repeat(usize::try_from(dice.below(300)).unwrap_or(0));
        json!({
            "key": format!("key {}", number % 50),
            "value": format!("{number} {filler}"),
            "timestamp": 1_700_000_000_000_u64 + number * 1000,
            "headers": [["n", number.to_string()], ["n", "again"]],
        })
    };
    (from..to).map(record).collect()
}

/// Everything in the topic, in order of partition and offset.
fn everything(broker: &Broker) -> Result<Vec<Value>> {
    let mut all = consume(broker, TOPIC, &[])?;
    all.sort_by_key(|record| (record["partition"].as_u64(), record["offset"].as_u64()));
    Ok(all)
}

/// Whether two readings are alike, and where they first are not.
fn same(expected: &[Value], actual: &[Value]) -> Result<()> {
    let differ = expected.iter().zip(actual).find(|(one, other)| one != other);
    if let Some((expected, actual)) = differ {
        bail!("{actual} was read where {expected} was before");
    }
    let (expected, actual) = (expected.len(), actual.len());
    ensure!(expected == actual, "{actual} records were read, {expected} before");
    Ok(())
}

/// The first offset that a partition's local files hold.
fn local_start(dir: &Path) -> Result<u64> {
    let mut first = u64::MAX;
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let base = name.split('.').next().and_then(|base| base.parse().ok());
        first = first.min(base.unwrap_or(u64::MAX));
    }
    Ok(first)
}

/// Waits until the local files of every partition start behind some of its records.
fn wait_for_local_deletion(broker: &Broker, data: &Path, partitions: u32) -> Result<()> {
    for partition in 0..partitions {
        let dir = partition_dir(broker, data, TOPIC, partition)?;
        let gone = || Ok(local_start(&dir)? > 0);
        wait_until("the oldest local segments are gone", PATIENCE, gone)?;
    }
    Ok(())
}

/// The archive's Parquet objects.
fn objects(archive: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![archive.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What `archive status` says of each partition.
fn status(broker: &Broker) -> Result<Vec<Value>> {
    let status = broker.millstream(&["archive", "status", TOPIC, "-o", "json"])?;
    let rows = json_lines(&success(&status)?)?;
    Ok(rows.into_iter().filter(|row| row.get("partition").is_some()).collect())
}

/// Waits until every committed record is in the archive.
fn wait_until_archived(broker: &Broker) -> Result<()> {
    wait_until("everything is archived", PATIENCE, || {
        let rows = status(broker)?;
        Ok(!rows.is_empty() && rows.iter().all(|row| row["end_offset"] == row["high_watermark"]))
    })
}

#[test]
fn what_left_the_disk_is_read_as_if_it_had_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start_with(&data, &options(&[]))?;
    create(&broker, 2, &["local.retention.ms=-1"])?;
    produce(&broker, TOPIC, &records(0, 4000), &["--compression", "zstd"])?;
    let before = everything(&broker)?;
    ensure!(before.len() == 4000);

    let forget = ["topic", "alter", TOPIC, "-c", "local.retention.ms=0"];
    success(&broker.millstream(&forget)?)?;
    produce(&broker, TOPIC, &records(4000, 5000), &[])?;
    wait_for_local_deletion(&broker, &data, 2)?;
    let after = everything(&broker)?;
    ensure!(after.len() == 5000, "{} records", after.len());
    let old = |record: &&Value| before.contains(record);
    ensure!(after.iter().filter(old).count() == 4000, "what is archived reads differently");
    ensure!(!objects(&data.join("archive"))?.is_empty());

    // From the middle of what is archived, and by time.
    let in_partition_0: Vec<&Value> =
        after.iter().filter(|record| record["partition"] == 0).collect();
    let middle = in_partition_0[in_partition_0.len() / 3];
    let offset = middle["offset"].to_string();
    let read = consume(&broker, TOPIC, &["--partition", "0", "--from", &offset, "-n", "1"])?;
    ensure!(read == [middle.clone()], "{read:?} is not {middle}");
    let log = broker.kill9()?;
    ensure!(!log.contains("panicked"), "{log}");

    let broker = Broker::start_with(&data, &options(&[]))?;
    same(&after, &everything(&broker)?).context("after a restart")?;
    produce(&broker, TOPIC, &records(5000, 5100), &[])?;
    ensure!(everything(&broker)?.len() == 5100);
    Ok(())
}

#[test]
fn a_bucket_alone_brings_a_topic_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("bucket");
    let location = archive.to_str().context("a path in UTF-8")?;
    let options = options(&[("MILLSTREAM_ARCHIVE__LOCATION", location)]);
    let broker = Broker::start_with(&dir.path().join("first"), &options)?;
    create(&broker, 2, &["message.timestamp.type=CreateTime"])?;
    produce(&broker, TOPIC, &records(0, 3000), &["--compression", "lz4"])?;
    let idempotent = Idempotent::new(&broker)?;
    let stored = idempotent.send(&broker)?;
    wait_until_archived(&broker)?;
    let before = everything(&broker)?;
    success(&broker.millstream(&["archive", "verify", TOPIC])?)?;
    let log = broker.kill9()?;
    ensure!(!log.contains("panicked"), "{log}");

    let data = dir.path().join("second");
    let broker = Broker::start_with(&data, &options)?;
    success(&broker.millstream(&["archive", "restore", TOPIC])?)?;
    same(&before, &everything(&broker)?).context("restored")?;
    ensure!(idempotent.send(&broker)? == stored, "a batch that was sent again was stored again");
    produce(&broker, TOPIC, &records(3000, 3100), &[])?;
    let grown = everything(&broker)?;
    ensure!(grown.len() == 3102, "{} records", grown.len());
    // Nothing is sealed yet: what the log begins with is still in the archive alone.
    let log = broker.kill9()?;
    ensure!(!log.contains("panicked"), "{log}");
    let broker = Broker::start_with(&data, &options)?;
    same(&grown, &everything(&broker)?).context("restored and killed")?;
    ensure!(idempotent.send(&broker)? == stored, "a restart forgot a producer");
    ensure!(everything(&broker)?.len() == grown.len());
    success(&broker.millstream(&["archive", "verify", TOPIC])?)?;
    // Once more, it is there already and stays as it is.
    success(&broker.millstream(&["archive", "restore", TOPIC])?)?;
    same(&grown, &everything(&broker)?).context("restored again")?;
    Ok(())
}

/// More partitions than one command of the metadata holds.
const MANY: u32 = 2_000;

#[test]
fn a_topic_of_many_partitions_comes_back_whenever_the_broker_dies() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("bucket");
    let location = archive.to_str().context("a path in UTF-8")?;
    let options = options(&[("MILLSTREAM_ARCHIVE__LOCATION", location)]);
    let broker = Broker::start_with(&dir.path().join("first"), &options)?;
    create(&broker, MANY, &[])?;
    let record = |partition: u32| json!({ "partition": partition, "value": partition.to_string() });
    let records: Vec<Value> = (0..MANY).step_by(10).map(record).collect();
    produce(&broker, TOPIC, &records, &[])?;
    wait_until_archived(&broker)?;
    let before = everything(&broker)?;
    ensure!(before.len() == records.len(), "{} records", before.len());
    let log = broker.kill9()?;
    ensure!(!log.contains("panicked"), "{log}");

    let mut phoenix = Phoenix::start(&dir.path().join("second"), options)?;
    for wait_ms in [100, 500, 2_000] {
        let mut restoring = phoenix.broker.command()?;
        let mut restoring =
            restoring.args(["archive", "restore", TOPIC]).stdout(Stdio::null()).spawn()?;
        pause(Duration::from_millis(wait_ms));
        phoenix = phoenix.kill_and_restart()?;
        restoring.kill()?;
        restoring.wait()?;
        let (topics, rows) = (topics(&phoenix.broker)?.len(), status(&phoenix.broker)?.len());
        ensure!(topics == 0 || rows == usize::try_from(MANY)?, "a topic of {rows} partitions");
    }
    wait_until("it is restored", PATIENCE * 2, || {
        let restored = phoenix.broker.millstream(&["archive", "restore", TOPIC])?;
        Ok(restored.status.success())
    })?;
    let rows = status(&phoenix.broker)?;
    ensure!(rows.len() == usize::try_from(MANY)?, "{} partitions", rows.len());
    same(&before, &everything(&phoenix.broker)?).context("restored")?;
    produce(&phoenix.broker, TOPIC, &records, &[])?;
    ensure!(everything(&phoenix.broker)?.len() == 2 * before.len());
    success(&phoenix.broker.millstream(&["archive", "verify", TOPIC])?).map(drop)
}

/// The identity of the cluster of a data directory.
fn cluster_of(data: &Path) -> Result<String> {
    let identity: Value = serde_json::from_slice(&std::fs::read(data.join("millstream.json"))?)?;
    Ok(identity["cluster_id"].as_str().context("no cluster")?.to_owned())
}

/// Waits until a broker says of every partition that a cluster has taken its archive.
fn wait_until_taken_over(broker: &Broker, by: &str) -> Result<()> {
    let told = format!("cluster {by} has restored the topic");
    wait_until("the archive's new owner is told", PATIENCE, || {
        let is_told = |row: &Value| row["error"].as_str().is_some_and(|it| it.contains(&told));
        Ok(status(broker)?.iter().all(is_told))
    })
}

#[test]
fn two_clusters_over_one_bucket_archive_a_topic_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("bucket");
    let location = archive.to_str().context("a path in UTF-8")?;
    let options = options(&[
        ("MILLSTREAM_ARCHIVE__LOCATION", location),
        ("MILLSTREAM_ARCHIVE__GRACE_MS", "1000"),
    ]);
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let old = Broker::start_with(&first, &options)?;
    create(&old, 2, &["local.retention.ms=0"])?;
    produce(&old, TOPIC, &records(0, 2000), &[])?;
    wait_until_archived(&old)?;
    let before = everything(&old)?;

    let new = Broker::start_with(&second, &options)?;
    success(&new.millstream(&["archive", "restore", TOPIC])?)?;
    same(&before, &everything(&new)?).context("restored beside its first owner")?;
    // Both go on, each with records of its own.
    produce(&old, TOPIC, &records(2000, 3000), &[])?;
    produce(&new, TOPIC, &records(5000, 5500), &[])?;
    wait_until_taken_over(&old, &cluster_of(&second)?)?;
    wait_until_archived(&new)?;
    let grown = everything(&new)?;
    ensure!(grown.len() == 2500, "{} records", grown.len());
    // What only it has, the first keeps, whatever its retention, and reads what it had archived.
    produce(&old, TOPIC, &records(3000, 3100), &[])?;
    let kept = everything(&old)?;
    ensure!(kept.len() == 3100, "{} records", kept.len());
    success(&old.millstream(&["archive", "verify", TOPIC])?)?;
    let log = old.kill9()?;
    ensure!(!log.contains("panicked"), "{log}");
    let old = Broker::start_with(&first, &options)?;
    same(&kept, &everything(&old)?).context("after a restart")?;
    wait_until_taken_over(&old, &cluster_of(&second)?)?;

    // Deleted there, it stays here; and may be brought back there once it is forgotten.
    success(&old.millstream(&["topic", "delete", TOPIC])?)?;
    wait_until("the topic is forgotten where it was deleted", PATIENCE, || {
        Ok(old.millstream(&["archive", "restore", TOPIC])?.status.success())
    })?;
    same(&grown, &everything(&old)?).context("brought back")?;
    same(&grown, &everything(&new)?).context("still served")?;
    success(&new.millstream(&["archive", "verify", TOPIC])?)?;
    produce(&new, TOPIC, &records(6000, 6010), &[])?;
    wait_until_taken_over(&new, &cluster_of(&first)?)?;
    for broker in [old, new] {
        let log = broker.kill9()?;
        ensure!(!log.contains("panicked"), "{log}");
    }
    Ok(())
}

#[test]
fn a_clusters_own_producers_are_none_that_come_with_a_topic() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("bucket");
    let location = archive.to_str().context("a path in UTF-8")?;
    let options = options(&[("MILLSTREAM_ARCHIVE__LOCATION", location)]);
    let broker = Broker::start_with(&dir.path().join("first"), &options)?;
    create(&broker, 1, &["message.timestamp.type=CreateTime"])?;
    let theirs = Idempotent::new(&broker)?;
    let stored = theirs.send(&broker)?;
    wait_until_archived(&broker)?;
    broker.kill9()?;

    let broker = Broker::start_with(&dir.path().join("second"), &options)?;
    // Before the restore, and as many as it takes to have any number that the other has.
    let producer = init_producer(&broker)?;
    ensure!(producer.id.number() == theirs.producer.id.number(), "both clusters count alike");
    success(&broker.millstream(&["archive", "restore", TOPIC])?)?;
    let ours = Idempotent::of(&broker, producer)?;
    let second = ours.send(&broker)?;
    ensure!(second == stored + 2, "{second}: taken for what another had stored at {stored}");
    ensure!(ours.send(&broker)? == second, "its own batch was stored twice");
    ensure!(theirs.send(&broker)? == stored, "a restored producer's batch was stored twice");
    ensure!(everything(&broker)?.len() == 4);
    Ok(())
}

/// What DuckDB, pyarrow and polars say of each partition, each with nothing of ours: how many
/// records, the first and last offset, and the bytes of all values.
const ANALYST: &str = r#"
import glob, json, sys, duckdb, polars, pyarrow.compute, pyarrow.dataset
pattern = sys.argv[1]
told = {"duckdb": duckdb.sql(f"""
    select "partition", count(*), min("offset"), max("offset"), sum(octet_length("value"))
    from '{pattern}' group by 1 order by 1""").fetchall()}
table = pyarrow.dataset.dataset(sorted(glob.glob(pattern)), format="parquet").to_table()
table = table.append_column("bytes", pyarrow.compute.binary_length(table["value"]))
rows = table.group_by("partition").aggregate([("offset", "count"), ("offset", "min"),
    ("offset", "max"), ("bytes", "sum")]).sort_by("partition").to_pylist()
told["pyarrow"] = [[row[name] for name in ("partition", "offset_count", "offset_min", "offset_max",
    "bytes_sum")] for row in rows]
told["polars"] = polars.scan_parquet(pattern).group_by("partition").agg(
    polars.len(), polars.col("offset").min(), polars.col("offset").max().alias("last"),
    polars.col("value").bin.size().sum()).sort("partition").collect().rows()
print(json.dumps({tool: [[int(value) for value in row] for row in rows]
    for tool, rows in told.items()}))
"#;

/// A Python with the tools that analysts use; `None` where there is none to be had.
fn analytics() -> Result<Option<PathBuf>> {
    python("analytics", &["duckdb==1.5.5", "pyarrow", "polars"])
}

/// What a script says of the topic's objects below `data`, a JSON value a line.
fn ask(bin: &Path, script: &str, data: &Path) -> Result<Vec<Value>> {
    let mut command = std::process::Command::new(bin.join("python"));
    command.args(["-c", script]);
    command.arg(data.join(format!("archive/topics/{TOPIC}.*/*/*.parquet")));
    json_lines(&success(&command.output()?)?)
}

#[test]
fn analysts_see_what_was_produced() -> Result<()> {
    let Some(bin) = analytics()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start_with(&data, &options(&[]))?;
    create(&broker, 3, &[])?;
    produce(&broker, TOPIC, &records(0, 3000), &["--compression", "zstd"])?;
    wait_until_archived(&broker)?;
    let mut expected: Vec<[i64; 5]> = Vec::new();
    for record in everything(&broker)? {
        let number = |name: &str| record[name].as_i64().context("no number");
        let (partition, offset) = (number("partition")?, number("offset")?);
        let bytes = record["value"].as_str().context("no value")?.len();
        let bytes = i64::try_from(bytes)?;
        match expected.last_mut().filter(|row| row[0] == partition) {
            Some(row) => *row = [partition, row[1] + 1, row[2], offset, row[4] + bytes],
            None => expected.push([partition, 1, offset, offset, bytes]),
        }
    }
    let told = ask(&bin, ANALYST, &data)?.pop().context("nothing was told")?;
    for tool in ["duckdb", "pyarrow", "polars"] {
        ensure!(told[tool] == json!(expected), "{tool}: {} is not {expected:?}", told[tool]);
    }
    Ok(())
}

/// What SQL makes of the typed columns, a JSON object a row.
const TYPED: &str = r#"
import duckdb, json, sys
told = duckdb.sql(f"""select id, price, note, typeof(id) as t from
    read_parquet('{sys.argv[1]}', union_by_name = true) order by "offset" """)
names = [column[0] for column in told.description]
for row in told.fetchall():
    print(json.dumps(dict(zip(names, row))))
"#;

#[test]
fn sql_sees_the_columns_that_the_topic_declares() -> Result<()> {
    let Some(bin) = analytics()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start_with(&data, &options(&[]))?;
    let config = ["archive.value.format=json", "archive.value.columns=id:bigint, price:double"];
    create(&broker, 1, &config)?;
    let record = |value: Value| json!({ "value": value.to_string() });
    let before = [
        record(json!({ "id": 1, "price": 2, "note": "not declared yet" })),
        record(json!({ "id": "one", "price": 2.5 })),
        json!({ "value": "no JSON" }),
    ];
    produce(&broker, TOPIC, &before, &[])?;
    wait_until_archived(&broker)?;
    let refused =
        broker.millstream(&["topic", "alter", TOPIC, "-c", "archive.value.columns=id:int"])?;
    ensure!(failure(&refused, 1)?.contains("boolean, bigint, double or varchar"));
    let alter = ["topic", "alter", TOPIC, "-c", "archive.value.columns=id:double,note:varchar"];
    success(&broker.millstream(&alter)?)?;
    produce(&broker, TOPIC, &[record(json!({ "id": 2, "price": 3, "note": "late" }))], &[])?;
    wait_until_archived(&broker)?;

    let told = ask(&bin, TYPED, &data)?;
    let row = |id: Option<i64>, price: Option<f64>, note: Option<&str>| {
        let t = "BIGINT";
        json!({ "id": id, "price": price, "note": note, "t": t })
    };
    let expected = [
        row(Some(1), Some(2.0), None),
        row(None, Some(2.5), None),
        row(None, None, None),
        row(Some(2), Some(3.0), Some("late")),
    ];
    ensure!(told == expected, "{told:?} is not {expected:?}");
    let values = |records: &[Value]| -> Vec<Value> {
        records.iter().map(|record| record["value"].clone()).collect()
    };
    ensure!(values(&everything(&broker)?)[..3] == values(&before), "the values have changed");
    Ok(())
}

/// One batch of two records of an idempotent producer, to be sent again and again.
struct Idempotent {
    topic: TopicId,
    producer: ProducerIdentity,
    batch: Bytes,
}

impl Idempotent {
    fn new(broker: &Broker) -> Result<Idempotent> {
        Idempotent::of(broker, init_producer(broker)?)
    }

    fn of(broker: &Broker, producer: ProducerIdentity) -> Result<Idempotent> {
        let topics = topics(broker)?;
        let (_, id) = topics.iter().find(|(name, _)| name == TOPIC).context("no topic")?;
        let topic = id.parse().map_err(|_| anyhow!("{id} is no id"))?;
        let mut builder = BatchBuilder::new(Codec::None, 0);
        for value in [b"one", b"two"] {
            builder.append(TimestampMs(1_700_000_000_000), None, Some(value), &[])?;
        }
        let stamp = ProducerStamp { id: producer.id, epoch: producer.epoch, base_sequence: 0 };
        Ok(Idempotent { topic, producer, batch: builder.build(stamp)? })
    }

    /// The offset at which the broker says that it is.
    fn send(&self, broker: &Broker) -> Result<i64> {
        block_on(async {
            let open = OpenProduce {
                topic: self.topic,
                partition: PartitionIndex(0),
                leader_epoch: None,
                producer: Some(self.producer),
                acks: Acks::All,
                trace: TraceId::default(),
            };
            let (_, mut sender, mut acks) = connect(broker).await?.open_produce(open).await?;
            sender.send(self.batch.clone()).await?;
            let ack = acks.next().await?.context("no answer")?;
            Ok(ack.map_err(|error| anyhow!("{error}"))?.base_offset.value())
        })
    }
}

fn init_producer(broker: &Broker) -> Result<ProducerIdentity> {
    block_on(async {
        let connection = connect(broker).await?;
        let request = InitProducerRequest { producer: None }.into();
        match connection.request(&request, PATIENCE).await? {
            Response::InitProducer(response) => Ok(response.producer),
            other => Err(anyhow!("{other:?}")),
        }
    })
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn connect(broker: &Broker) -> Result<Connection> {
    let roots_pem = std::fs::read_to_string(broker.ca())?;
    let connector =
        Connector::new(&ClientTls { roots_pem, identity: None }, ConnectorConfig::default())?;
    Ok(connector.connect(&broker.quic().to_string()).await?)
}
