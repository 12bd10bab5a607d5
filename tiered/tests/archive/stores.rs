//! A directory and a real S3 server, over HTTP, hold an archive alike.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use millstream_tiered::{
    ArchiveError, ArchivedTopic, Created, Encoder, Identity, PartitionArchive, RangeEnd, Store,
    StoreError,
};
use millstream_types::{LeaderEpoch, Offset, TimestampMs};

use crate::python;
use crate::replay::encode;
use crate::sample::{Plan, batches, identity};

/// Everything that the archive needs of a store.
async fn holds_an_archive(store: &Store) {
    store.probe(1).await.unwrap();
    let before = store.counters();
    assert_eq!(store.create("a/b", "one".into()).await.unwrap(), Created::Won);
    assert_eq!(store.create("a/b", "two".into()).await.unwrap(), Created::Taken);
    assert_eq!(store.get("a/b", 10).await.unwrap(), "one");
    assert!(matches!(store.get("a/b", 2).await, Err(StoreError::Refused { .. })), "too large");
    assert_eq!(store.get_range("a/b", 1..3).await.unwrap(), "ne");
    assert_eq!(store.size("a/b").await.unwrap(), 3);
    assert!(matches!(store.get("a/c", 10).await, Err(StoreError::NotFound { .. })));
    store.put("a/d/e", "three".into()).await.unwrap();
    assert_eq!(store.folders("a").await.unwrap(), ["d"]);
    let names: Vec<_> = store.list("a", 10).await.unwrap().into_iter().map(|o| o.key).collect();
    assert_eq!(names, ["a/b", "a/d/e"]);
    assert!(store.list("a", 1).await.is_err(), "more than asked for");
    let after = store.clone().counters();
    assert_eq!(after.requests - before.requests, 11, "clones count together");
    assert_eq!(after.read_bytes - before.read_bytes, 3 + 2, "not what was refused");
    assert_eq!(after.written_bytes - before.written_bytes, 3 + 5, "not what was taken before");
    store.delete("a/b").await.unwrap();
    store.delete("a/b").await.unwrap();

    let open = || PartitionArchive::open(store.clone(), identity(), None);
    let mut archive = open().await.unwrap();
    let originals = batches(0, &vec![Plan { value_bytes: 5000, ..Plan::plain(200) }; 12]);
    for (attempt, range) in originals.chunks(4).enumerate() {
        let mut encoder = Encoder::new(identity(), range[0].header().base_offset).unwrap();
        range.iter().for_each(|batch| encoder.push(batch).unwrap());
        let object = encoder.finish(&RangeEnd::default()).unwrap();
        archive.append(LeaderEpoch(1), &object, attempt as u128).await.unwrap();
        // A repeated call, as after a lost reply, changes nothing.
        let again = archive.append(LeaderEpoch(1), &object, attempt as u128).await.unwrap();
        assert_eq!(Some(&again), archive.head());
        let other = archive.append(LeaderEpoch(1), &object, 99).await;
        assert!(matches!(other, Err(ArchiveError::Superseded { .. })), "{other:?}");
    }
    let archive_again = open().await.unwrap();
    assert_eq!(archive_again.head(), archive.head());
    // From the middle of a batch on: the batch that holds the offset comes first.
    let read = archive_again.read(Offset::new(301).unwrap()).await.unwrap();
    let first = millstream_wire::Batch::validate(read.batches[0].clone()).unwrap();
    assert_eq!(first.header().base_offset, Offset::new(200).unwrap());
    for entry in archive_again.entries() {
        assert_eq!(archive_again.verify(entry).await.unwrap().records, 800);
    }
    let mut archive = archive_again;
    archive.trim(LeaderEpoch(1), Offset::new(800).unwrap()).await.unwrap();
    assert_eq!(archive.collect(TimestampMs(i64::MAX), 0).await.unwrap(), 1);
    assert!(archive.read(Offset::ZERO).await.is_err());
}

#[tokio::test]
async fn a_directory_holds_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    holds_an_archive(&Store::directory(&dir.path().join("archive")).unwrap()).await;
}

/// An object that a reader would refuse must never be the only copy: it is not even put.
#[tokio::test]
async fn what_no_reader_would_take_is_not_archived() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(&dir.path().join("archive")).unwrap();
    let mut archive = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    let batch = &batches(0, &[Plan::plain(10)])[0];
    // Of 100,000 producers with five batches each; and of more than there can be.
    let object = |producer_bytes| {
        let mut encoder = Encoder::new(identity(), Offset::ZERO).unwrap();
        encoder.push(batch).unwrap();
        let producers = vec![7; producer_bytes].into();
        encoder.finish(&RangeEnd { producers, ..RangeEnd::default() }).unwrap()
    };
    let mut miscounted = object(0);
    miscounted.summary.records += 1;
    let before = store.counters().written_bytes;
    for refused in [object(26_000_000), miscounted] {
        let refused = archive.append(LeaderEpoch(1), &refused, 1).await;
        assert!(matches!(refused, Err(ArchiveError::Object { .. })), "{refused:?}");
    }
    assert_eq!(store.counters().written_bytes, before);
    archive.append(LeaderEpoch(1), &object(13_900_000), 2).await.unwrap();
    let archive = PartitionArchive::open(store, identity(), archive.head()).await.unwrap();
    let end = archive.range_end().await.unwrap().unwrap();
    assert_eq!(end.producers.len(), 13_900_000);
}

#[tokio::test]
async fn a_directory_has_no_folders_of_what_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(&dir.path().join("archive")).unwrap();
    store.put("topics/a.1/0/one", "1".into()).await.unwrap();
    store.put("topics/b.1/0/one", "1".into()).await.unwrap();
    store.delete("topics/a.1/0/one").await.unwrap();
    assert_eq!(store.folders("topics").await.unwrap(), ["b.1"]);
}

/// Files that were being written when their writer died.
#[tokio::test]
async fn what_was_not_finished_goes_after_its_grace() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("archive");
    let store = Store::directory(&root).unwrap();
    let mut archive = PartitionArchive::open(store.clone(), identity(), None).await.unwrap();
    let object = |base| encode(&batches(base, &[Plan::plain(5)]), &RangeEnd::default());
    archive.append(LeaderEpoch(1), &object(0), 1).await.unwrap();
    let folder = root.join(archive.folder());
    let unfinished = [folder.join("1-2-1-7.parquet#1"), folder.join("manifest/7.json#12")];
    let others = [folder.join("mine#1"), folder.join("1-2-1-7.parquet#one")];
    for file in unfinished.iter().chain(&others) {
        std::fs::write(file, "half").unwrap();
    }
    let now = unfinished[1].metadata().unwrap().modified().unwrap();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let now = TimestampMs(i64::try_from(now).unwrap());
    assert_eq!(archive.collect(now, 60_000).await.unwrap(), 0);
    assert_eq!(archive.collect(TimestampMs(now.0 + 60_000), 60_000).await.unwrap(), 2);
    assert!(unfinished.iter().all(|file| !file.exists()));
    assert!(others.iter().all(|file| file.exists()));

    others.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    std::fs::write(&unfinished[0], "half").unwrap();
    let Identity { cluster, topic, topic_id, .. } = identity();
    let removed = ArchivedTopic::new(topic.clone(), topic_id);
    // The object, its manifest, the config that says so, and what was not finished.
    assert_eq!(removed.remove(&store, cluster).await.unwrap(), 4);
    assert_eq!(store.folders("topics").await.unwrap(), [""; 0]);
    // What comes after that is found by the next look.
    let late = format!("{}/1-2-1-7.parquet", archive.folder());
    store.put(&late, "late".into()).await.unwrap();
    assert_eq!(removed.remove(&store, cluster).await.unwrap(), 2);
    assert_eq!(removed.remove(&store, cluster).await.unwrap(), 0);
}

#[tokio::test]
async fn an_s3_server_holds_an_archive() {
    let Some(python) = python::with("moto", &["moto[server]==5.2.5"]) else { return };
    let server = Moto::start(&python);
    // The variables that every S3 client reads; nothing else in this process is one.
    let store = Store::s3_with(
        "s3://archive/some/prefix",
        &[
            ("aws_access_key_id", "test"),
            ("aws_secret_access_key", "test"),
            ("aws_region", "us-east-1"),
            ("aws_endpoint", &server.endpoint),
        ],
    );
    holds_an_archive(&store.unwrap()).await;
}

#[test]
fn a_location_that_is_none_says_what_is_expected() {
    for url in ["s3://", "s3:///prefix", "http://bucket", "s3://b/a//double"] {
        let refused = Store::s3(url, &[]);
        let told = refused.as_ref().map_or_else(ToString::to_string, |_| String::new());
        assert!(told.starts_with("archive location `"), "{url}: {refused:?}");
    }
    let refused = Store::directory(Path::new("/dev/null/archive"));
    assert!(matches!(refused, Err(StoreError::Location { .. })), "{refused:?}");
}

/// A server that keeps conditional writes honest; ended when dropped.
struct Moto {
    child: Child,
    endpoint: String,
}

impl Moto {
    fn start(python: &Path) -> Self {
        // Free now, and taken by nobody else in the moment until the server has it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = python.with_file_name("moto_server");
        let child = Command::new(server)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { child, endpoint: format!("http://127.0.0.1:{port}") };
        let make_bucket = format!(
            "import time, urllib.request as u\n\
             for _ in range(150):\n\
             \x20try:\n\
             \x20\x20u.urlopen(u.Request('{}/archive', method='PUT'), timeout=5); break\n\
             \x20except OSError: time.sleep(0.2)\n\
             else: raise SystemExit('the server did not answer')\n",
            moto.endpoint
        );
        let status = Command::new(python).args(["-c", &make_bucket]).status().unwrap();
        assert!(status.success());
        moto
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
