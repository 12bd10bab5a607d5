//! Batches that say one thing and hold another, from a client that is not ours: what cannot be read
//! is refused before it is stored, what is merely wrong misleads nobody.

use anyhow::{Context, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use millstream_net::client::{AckReceiver, Connector, ConnectorConfig, ProduceSender};
use millstream_net::{ClientTls, ServiceError};
use millstream_tests::{Broker, consume, partition_dir, success};
use millstream_types::{
    ErrorCode, PartitionIndex, ProducerEpoch, ProducerId, TimestampMs, TopicId,
};
use millstream_wire::api::{Acks, OpenProduce, ProduceAck, TraceId};
use millstream_wire::{BatchBuilder, Codec, ProducerStamp, crc32c, restamp};

/// Where Kafka's record batch v2 has its CRC and what that covers, and the largest timestamp.
const CRC_AT: usize = 17;
const COVERED_FROM: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;
const RECORDS_AT: usize = 61;

/// A stream into partition 0 of topic `t`.
struct Liar {
    sender: ProduceSender,
    acks: AckReceiver,
}

impl Liar {
    async fn connect(broker: &Broker, topic: TopicId) -> Result<Liar> {
        let roots_pem = std::fs::read_to_string(broker.ca())?;
        let tls = ClientTls { roots_pem, identity: None };
        let connector = Connector::new(&tls, ConnectorConfig::default())?;
        let connection = connector.connect(&broker.quic().to_string()).await?;
        let open = OpenProduce {
            topic,
            partition: PartitionIndex(0),
            leader_epoch: None,
            producer: None,
            acks: Acks::All,
            trace: TraceId::default(),
        };
        let (_, sender, acks) = connection.open_produce(open).await?;
        Ok(Liar { sender, acks })
    }

    async fn say(&mut self, batch: Bytes) -> Result<Result<ProduceAck, ServiceError>> {
        self.sender.send(batch).await?;
        self.acks.next().await?.context("the stream ended")
    }
}

fn batch(timestamps: &[i64]) -> Result<BytesMut> {
    let mut builder = BatchBuilder::new(Codec::None, 0);
    for timestamp in timestamps {
        builder.append(TimestampMs(*timestamp), None, Some(b"true"), &[])?;
    }
    Ok(BytesMut::from(&builder.build(ProducerStamp::NONE)?[..]))
}

/// The CRC that makes a lie well-formed.
fn sealed(mut batch: BytesMut) -> Bytes {
    let crc = crc32c(&batch[COVERED_FROM..]);
    (&mut batch[CRC_AT..COVERED_FROM]).put_u32(crc);
    batch.freeze()
}

fn with_topic() -> Result<(tempfile::TempDir, Broker, TopicId)> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let broker = Broker::start(&data)?;
    success(&broker.millstream(&["topic", "create", "t"])?)?;
    let partition = partition_dir(&broker, &data, "t", 0)?;
    let topic = partition.parent().and_then(|dir| dir.file_name()).context("no topic id")?;
    let topic = topic.to_string_lossy().parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok((dir, broker, topic))
}

/// One such batch in the log would stop every consumer of the partition for ever.
#[tokio::test]
async fn a_batch_with_a_right_crc_and_unreadable_records_is_not_stored() -> Result<()> {
    let (_dir, broker, topic) = with_topic()?;
    let mut liar = Liar::connect(&broker, topic).await?;
    liar.say(sealed(batch(&[1])?)).await??;
    let mut lies = Vec::new();
    for (at, change) in [(RECORDS_AT, 0xff), (RECORDS_AT + 3, 0x7e), (RECORDS_AT + 5, 0x01)] {
        let mut lie = batch(&[1, 2])?;
        lie[at] ^= change;
        lies.push(lie);
    }
    // Says that it is compressed.
    let mut lie = batch(&[1, 2])?;
    lie[COVERED_FROM + 1] |= Codec::Zstd as u8;
    lies.push(lie);
    // Has a record that is later than the largest timestamp: a search by time would miss it.
    let mut lie = batch(&[1, 2])?;
    (&mut lie[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8]).put_i64(1);
    lies.push(lie);
    for lie in lies {
        let refused = liar.say(sealed(lie)).await?.err().context("a lie was stored")?;
        ensure!(refused.code == ErrorCode::CorruptBatch, "{refused:?}");
    }
    liar.say(sealed(batch(&[3])?)).await??;
    let stored = consume(&broker, "t", &[])?;
    assert_eq!(stored.len(), 2, "{stored:?}");
    Ok(())
}

/// Each partition remembers a bounded number of producers; ids that nobody was given would push out
/// those that somebody was.
#[tokio::test]
async fn a_producer_id_that_was_never_given_out_is_refused() -> Result<()> {
    let (_dir, broker, topic) = with_topic()?;
    let mut liar = Liar::connect(&broker, topic).await?;
    let stamp =
        ProducerStamp { id: ProducerId(1 << 40), epoch: ProducerEpoch(0), base_sequence: 0 };
    let invented = restamp(batch(&[1])?.freeze(), stamp)?;
    let refused = liar.say(invented).await?.err().context("it was taken")?;
    ensure!(refused.code == ErrorCode::UnknownProducer, "{refused:?}");
    liar.say(sealed(batch(&[1])?)).await??;
    Ok(())
}

/// The header's largest timestamp is the producer's word; a search by time that believed it would
/// miss what comes behind, or find nothing.
#[tokio::test]
async fn a_largest_timestamp_that_no_record_has_misleads_no_search() -> Result<()> {
    let (_dir, broker, topic) = with_topic()?;
    let mut liar = Liar::connect(&broker, topic).await?;
    for (timestamps, told) in [(&[10, 20][..], 1_000_000), (&[30, 40], 1_000_000), (&[50, 60], 60)]
    {
        let mut lie = batch(timestamps)?;
        (&mut lie[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8]).put_i64(told);
        liar.say(sealed(lie)).await??;
    }
    let from = |time: &str| -> Result<Vec<u64>> {
        let found = consume(&broker, "t", &["--from", time])?;
        found.iter().map(|record| record["timestamp"].as_u64().context("no timestamp")).collect()
    };
    assert_eq!(from("@15")?, [20, 30, 40, 50, 60]);
    assert_eq!(from("@45")?, [50, 60], "behind two batches that promise it");
    assert_eq!(from("@61")?, Vec::<u64>::new());
    Ok(())
}

/// What a topic asks of time it asks of each record, whatever the header says; and whose clock it
/// was is not the producer's to say.
#[tokio::test]
async fn a_record_too_old_is_refused_in_new_company_and_so_is_the_brokers_time() -> Result<()> {
    const NEW: i64 = 1_700_000_000_000;
    let (_dir, broker, topic) = with_topic()?;
    let config = "message.timestamp.before.max.ms=1000000000000";
    success(&broker.millstream(&["topic", "alter", "t", "--config", config])?)?;
    let mut liar = Liar::connect(&broker, topic).await?;
    let mut stamped = batch(&[NEW])?;
    stamped[COVERED_FROM + 1] |= 1 << 3;
    for lie in [batch(&[1000, NEW])?, batch(&[NEW, 1000])?, stamped] {
        let refused = liar.say(sealed(lie)).await?.err().context("a lie was stored")?;
        ensure!(refused.code == ErrorCode::InvalidTimestamp, "{refused:?}");
    }
    liar.say(sealed(batch(&[NEW, -1, NEW])?)).await??;
    ensure!(consume(&broker, "t", &[])?.len() == 3);
    Ok(())
}
