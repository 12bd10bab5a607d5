//! What the protocol promises for requests that our own client and command line never make.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use millstream_net::client::{Connection, Connector, ConnectorConfig};
use millstream_net::{CallError, ClientTls};
use millstream_tests::{Broker, success};
use millstream_types::{PartitionIndex, TimestampMs, TopicId};
use millstream_wire::api::{
    Acks, AlterTopicRequest, CommandId, CreateTopicRequest, CreateTopicResponse,
    DescribeTopicsRequest, InitProducerRequest, ListOffsetsRequest, MetadataRequest, OffsetSpec,
    OpenProduce, ProduceAck, ProducerIdentity, Request, Response, TraceId,
};
use millstream_wire::{BatchBuilder, Codec, ProducerStamp};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

async fn connect(broker: &Broker) -> Result<Connection> {
    let roots_pem = std::fs::read_to_string(broker.ca())?;
    let tls = ClientTls { roots_pem, identity: None };
    let connector = Connector::new(&tls, ConnectorConfig::default())?;
    Ok(connector.connect(&broker.quic().to_string()).await?)
}

async fn call(to: &Connection, request: impl Into<Request>) -> Result<Response, CallError> {
    to.request(&request.into(), PATIENCE).await
}

/// A topic `t` of so many partitions; the last byte tells commands apart.
fn create(partitions: u32, command: u8) -> CreateTopicRequest {
    CreateTopicRequest {
        name: "t".to_owned(),
        partitions,
        replication_factor: 0,
        configs: BTreeMap::new(),
        if_not_exists: false,
        command: CommandId([command; 16]),
    }
}

#[tokio::test]
async fn a_topic_that_names_no_numbers_gets_the_brokers() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(&dir.path().join("data"))?;
    let connection = connect(&broker).await?;
    let mut answers = Vec::new();
    for command in [1, 1, 2] {
        match call(&connection, create(0, command)).await.context("create")? {
            Response::CreateTopic(answer) => answers.push(answer),
            other => bail!("{other:?}"),
        }
    }
    let topic = answers[0].topic;
    let answer =
        |created| CreateTopicResponse { topic, partitions: 1, replication_factor: 1, created };
    // The same command again is answered as at first, another one finds the topic as it asks for.
    assert_eq!(answers, [answer(true), answer(true), answer(false)]);
    Ok(())
}

#[tokio::test]
async fn an_alteration_is_done_whole_or_not_at_all() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start(&data)?;
    let connection = connect(&broker).await?;
    call(&connection, create(1, 1)).await?;
    let alter = |partitions, command| AlterTopicRequest {
        name: "t".to_owned(),
        set: BTreeMap::from([("retention.ms".to_owned(), "5000".to_owned())]),
        remove: Vec::new(),
        partitions: Some(partitions),
        command: CommandId([command; 16]),
    };
    let altered = |broker: &Broker| -> Result<(u64, usize)> {
        let output = broker.millstream(&["topic", "describe", "t", "-o", "json"])?;
        let described: Value = serde_json::from_str(&success(&output)?)?;
        let configs = described["configs"].as_array().context("configs")?;
        let set = configs.iter().filter(|config| config["is_default"] == false).count();
        Ok((set as u64, described["partitions"].as_array().context("partitions")?.len()))
    };
    // More than a topic can have: the quorum refuses it, not the broker that passes it on.
    let refused = call(&connection, alter(100_001, 2)).await;
    assert!(matches!(refused, Err(CallError::Service(_))), "{refused:?}");
    assert_eq!(altered(&broker)?, (0, 1));

    call(&connection, alter(3, 3)).await?;
    assert_eq!(altered(&broker)?, (1, 3));
    // Its answer was lost: the same request again changes nothing and succeeds.
    call(&connection, alter(3, 3)).await?;
    drop(broker);
    assert_eq!(altered(&Broker::start(&data)?)?, (1, 3));
    Ok(())
}

/// The same batch on a stream of its own, as after a lost connection.
async fn send(to: &Connection, topic: TopicId, producer: ProducerIdentity) -> Result<ProduceAck> {
    let open = OpenProduce {
        topic,
        partition: PartitionIndex(0),
        leader_epoch: None,
        producer: Some(producer),
        acks: Acks::All,
        trace: TraceId::default(),
    };
    let (_, mut sender, mut acks) = to.open_produce(open).await?;
    let mut builder = BatchBuilder::new(Codec::None, 0);
    builder.append(TimestampMs(1_000), None, Some(b"once"), &[])?;
    let stamp = ProducerStamp { id: producer.id, epoch: producer.epoch, base_sequence: 0 };
    sender.send(builder.build(stamp)?).await?;
    Ok(acks.next().await?.context("the stream ended")??)
}

/// The producer's record has the time of its first append, whichever answer it hears.
#[tokio::test]
async fn a_batch_sent_again_is_told_the_time_of_its_first_append() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start(&data)?;
    let connection = connect(&broker).await?;
    let stamped = ("message.timestamp.type".to_owned(), "LogAppendTime".to_owned());
    let request = CreateTopicRequest { configs: BTreeMap::from([stamped]), ..create(1, 1) };
    let topic = match call(&connection, request).await? {
        Response::CreateTopic(answer) => answer.topic,
        other => bail!("{other:?}"),
    };
    let producer = match call(&connection, InitProducerRequest { producer: None }).await? {
        Response::InitProducer(answer) => answer.producer,
        other => bail!("{other:?}"),
    };
    let first = send(&connection, topic, producer).await?;
    assert!(first.append_time.0 > 1_700_000_000_000, "{first:?}");
    assert_eq!(send(&connection, topic, producer).await?, first, "from memory");
    drop(broker);
    let broker = Broker::start(&data)?;
    let connection = connect(&broker).await?;
    assert_eq!(send(&connection, topic, producer).await?, first, "from the file");
    Ok(())
}

#[tokio::test]
async fn what_is_named_again_is_answered_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(&dir.path().join("data"))?;
    let connection = connect(&broker).await?;
    let Response::CreateTopic(made) = call(&connection, create(1000, 1)).await? else {
        bail!("no topic");
    };
    let mut names = vec!["nowhere".to_owned()];
    names.extend(vec!["t".to_owned(); 5000]);
    names.push("nowhere".to_owned());
    let topics = Some(names);
    match call(&connection, MetadataRequest { topics: topics.clone() }).await? {
        Response::Metadata(answer) => {
            let found = answer.topics.iter().map(|topic| (&*topic.name, topic.partitions.len()));
            assert_eq!(found.collect::<Vec<_>>(), [("nowhere", 0), ("t", 1000)]);
        }
        other => bail!("{other:?}"),
    }
    match call(&connection, DescribeTopicsRequest { topics }).await? {
        Response::DescribeTopics(answer) => {
            let found = answer.topics.iter().map(|topic| (&*topic.name, topic.partitions.len()));
            assert_eq!(found.collect::<Vec<_>>(), [("nowhere", 0), ("t", 1000)]);
        }
        other => bail!("{other:?}"),
    }
    let partitions = [7, 3, 7, 7, 3].map(PartitionIndex).to_vec();
    let request = ListOffsetsRequest { topic: made.topic, partitions, spec: OffsetSpec::Earliest };
    match call(&connection, request).await? {
        Response::ListOffsets(answer) => {
            let found = answer.partitions.iter().map(|found| found.partition.0);
            assert_eq!(found.collect::<Vec<_>>(), [7, 3]);
        }
        other => bail!("{other:?}"),
    }
    Ok(())
}
