//! The attacks. Each is one round, by its dice, and says whether it got as far as it meant to.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millstream_tests::Dice;
use millstream_wire::api::ApiKey;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::net::UdpSocket;

use crate::attacker::{
    Attacker, frame, frame_that_claims, hello, metadata_request, open_produce, open_subscription,
};

type Round = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type Attack = fn(Arc<Attacker>, Dice) -> Round;

/// Every attack by its name.
pub(crate) const ALL: &[(&str, Attack)] = &[
    ("datagrams", |attacker, dice| Box::pin(datagrams(attacker, dice))),
    ("other protocols", |attacker, _| Box::pin(other_protocols(attacker))),
    ("garbage for Hello", |attacker, dice| Box::pin(garbage_for_hello(attacker, dice))),
    ("half-open Hellos", |attacker, dice| Box::pin(half_open_hellos(attacker, dice))),
    ("garbage streams", |attacker, dice| Box::pin(garbage_streams(attacker, dice))),
    ("garbage bodies", |attacker, dice| Box::pin(garbage_bodies(attacker, dice))),
    ("oversized frames", |attacker, dice| Box::pin(oversized_frames(attacker, dice))),
    ("truncated frames", |attacker, dice| Box::pin(truncated_frames(attacker, dice))),
    ("large frames held back", |attacker, _| Box::pin(large_frames_held_back(attacker))),
    ("garbage batches", |attacker, dice| Box::pin(garbage_batches(attacker, dice))),
    ("a flood of streams", |attacker, _| Box::pin(flood_of_streams(attacker))),
    ("a flood of connections", |attacker, _| Box::pin(flood_of_connections(attacker))),
    ("readers that never read", |attacker, _| Box::pin(never_read(attacker))),
    ("calls never read", |attacker, _| Box::pin(calls_never_read(attacker))),
    ("resets", |attacker, dice| Box::pin(resets(attacker, dice))),
];

/// The longest body of a request, and of a batch.
const CONTROL_BODY_MAX: u32 = 4 << 20;
const BATCH_MAX: u32 = 16 << 20;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Lengths that no frame may have but some batches: each is beyond a bound.
const SIZES: [u32; 4] = [CONTROL_BODY_MAX + 1, BATCH_MAX + 65_537, 1 << 31, u32::MAX];
/// What the peer of a call that is never read may send, in bytes.
const UNREAD_WINDOW: u32 = 1024;
/// So many calls, each for so many topics that there are not: 40 KB to ask, 270 KB to answer.
const UNREAD_CALLS: usize = 1600;
const UNKNOWN_TOPICS: u32 = 10_000;
/// How long the broker may hold one of them up before no more are made.
const PATIENCE: Duration = Duration::from_millis(200);

/// What was sent so far by which API, and what was claimed, and how often.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    apis: Mutex<BTreeMap<u16, u64>>,
    sizes: Mutex<BTreeMap<u32, u64>>,
}

impl Sent {
    /// Fails unless each API and each size occurred, or neither, as the attacks were not wanted.
    /// Returns how often.
    pub(crate) fn check(&self) -> Result<String> {
        let apis = self.apis.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!([0, ApiKey::ALL.len()].contains(&apis.len()), "not every API: {apis:?}");
        ensure!([0, SIZES.len()].contains(&sizes.len()), "not every size: {sizes:?}");
        Ok(format!("requests by API: {apis:?}; oversized frames by length: {sizes:?}"))
    }
}

/// So many out of `all`, each as often as the others, in an order by the dice; counted in `sent`.
fn deal<T: Copy + Ord>(
    dice: &mut Dice,
    all: &[T],
    count: usize,
    sent: &Mutex<BTreeMap<T, u64>>,
) -> Vec<T> {
    let mut dealt: Vec<T> = all.iter().copied().cycle().take(count).collect();
    for place in (1..count).rev() {
        dealt.swap(place, usize::try_from(dice.below(place as u64 + 1)).unwrap_or(0));
    }
    let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
    for one in &dealt {
        *sent.entry(*one).or_default() += 1;
    }
    dealt
}

/// Closes it the way that costs the broker least, so that rounds do not add up.
fn leave(connection: &Connection) {
    connection.close(VarInt::from_u32(0), b"");
}

/// Datagrams of no protocol, and others that look like QUIC for some bytes.
async fn datagrams(attacker: Arc<Attacker>, mut dice: Dice) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    for round in 0..50 {
        let length = usize::try_from(dice.below(1400))?;
        let mut datagram = dice.bytes(length.max(1));
        if round % 2 == 0 && length > 20 {
            // A long header of version 1: Initial, 0-RTT, Handshake or Retry; short ids.
            datagram[0] |= 0xc0;
            datagram[1..5].copy_from_slice(&[0, 0, 0, 1]);
            datagram[5] = 8;
            datagram[14] %= 21;
        }
        socket.send_to(&datagram, attacker.broker).await?;
    }
    Ok(())
}

/// TLS for another protocol, or for none.
async fn other_protocols(attacker: Arc<Attacker>) -> Result<()> {
    for protocols in [&[&b"h3"[..]][..], &[b"millstream/2", b"hq-interop"], &[]] {
        // TLS 1.3 lets a client finish first and hear of the refusal later.
        let refusal = match attacker.connect_as(protocols).await {
            Ok(connection) => {
                let closed = tokio::time::timeout(ANSWER_WITHIN, connection.closed()).await;
                closed.context("let in")?
            }
            Err(error) => error.downcast()?,
        };
        let by_broker = matches!(refusal, ConnectionError::ConnectionClosed(_));
        ensure!(by_broker, "not refused by the broker: {refusal}");
    }
    Ok(())
}

/// A first stream that is no Hello: the broker must close the connection.
async fn garbage_for_hello(attacker: Arc<Attacker>, mut dice: Dice) -> Result<()> {
    let connection = attacker.connect().await?;
    let (mut send, _recv) = connection.open_bi().await?;
    let first = match dice.below(4) {
        0 => dice.bytes(4000),
        1 => frame(1, &dice.bytes(300)),
        2 => frame(1, b"MLST\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"),
        _ => open_subscription(&attacker.bait),
    };
    // The broker may close while this is written: that is what is wanted.
    send.write_all(&first).await.ok();
    send.finish().ok();
    tokio::time::timeout(ANSWER_WITHIN, connection.closed()).await.context("not closed")?;
    Ok(())
}

/// Connections that say nothing or half of a Hello; held for a while.
async fn half_open_hellos(attacker: Arc<Attacker>, mut dice: Dice) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..10 {
        let connection = attacker.connect().await?;
        let (mut send, recv) = connection.open_bi().await?;
        let hello = hello();
        let end = usize::try_from(dice.below(hello.len() as u64))?;
        send.write_all(&hello[..end]).await?;
        held.push((connection, send, recv));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(held.iter().all(|(connection, ..)| connection.close_reason().is_none()), "too early");
    Ok(())
}

/// Bytes without any sense on streams of a connection that was greeted.
async fn garbage_streams(attacker: Arc<Attacker>, mut dice: Dice) -> Result<()> {
    let connection = attacker.greeted().await?;
    for _ in 0..20 {
        let (mut send, mut recv) = connection.open_bi().await?;
        let length = usize::try_from(dice.below(5000))?;
        send.write_all(&dice.bytes(length)).await.ok();
        send.finish().ok();
        // The stream ends, with an answer or without; the connection stays.
        let ended = tokio::time::timeout(ANSWER_WITHIN, recv.read_to_end(1 << 20)).await;
        ended.context("the stream does not end")?.ok();
        ensure!(connection.close_reason().is_none(), "{:?}", connection.close_reason());
    }
    leave(&connection);
    Ok(())
}

/// Frames with a header as it should be, of every kind, and requests of every API, around bodies
/// without sense.
async fn garbage_bodies(attacker: Arc<Attacker>, mut dice: Dice) -> Result<()> {
    let connection = attacker.greeted().await?;
    let mut frames = Vec::new();
    for kind in 0..=20 {
        let length = usize::try_from(dice.below(2000))?;
        frames.push((format!("kind {kind}"), frame(kind, &dice.bytes(length))));
    }
    let apis: Vec<u16> = ApiKey::ALL.iter().map(|api| api.code()).collect();
    for api in deal(&mut dice, &apis, apis.len(), &attacker.sent.apis) {
        frames.push((format!("API {api}"), garbage_request(api, &mut dice)?));
    }
    let mut open = Vec::new();
    for (name, frame) in &frames {
        let (mut send, recv) = connection.open_bi().await?;
        send.write_all(frame).await.ok();
        send.finish().ok();
        open.push((name, recv));
    }
    for (name, mut recv) in open {
        let ended = tokio::time::timeout(ANSWER_WITHIN, recv.read_to_end(1 << 20)).await;
        ended.with_context(|| format!("a stream of {name} does not end"))?.ok();
    }
    ensure!(connection.close_reason().is_none(), "{:?}", connection.close_reason());
    leave(&connection);
    Ok(())
}

/// A Request of an API that there is, around bytes without sense. Half of the times they are small
/// numbers, so that lengths and counts fit and more fields are read.
fn garbage_request(api: u16, dice: &mut Dice) -> Result<Vec<u8>> {
    let length = usize::try_from(dice.below(2000))?;
    let mut body = api.to_be_bytes().to_vec();
    body.extend([0, 1]);
    body.extend(dice.bytes(20));
    body.extend(u32::try_from(length)?.to_be_bytes());
    let mask = if dice.below(2) == 0 { 3 } else { 0xff };
    body.extend(dice.bytes(length).iter().map(|byte| byte & mask));
    Ok(frame(3, &body))
}

/// Frames that claim more than their kind may have; nothing must be allocated for them.
async fn oversized_frames(attacker: Arc<Attacker>, mut dice: Dice) -> Result<()> {
    let connection = attacker.greeted().await?;
    let sizes = deal(&mut dice, &SIZES, 13, &attacker.sent.sizes);
    for (kind, size) in (1..=13).zip(sizes) {
        let (mut send, mut recv) = connection.open_bi().await?;
        let size = if kind == 7 || kind == 11 { size.max(BATCH_MAX + 65_537) } else { size };
        send.write_all(&frame_that_claims(size, kind, &[0; 2000])).await.ok();
        // Not finished: the broker need not wait for the rest to know.
        let ended = tokio::time::timeout(ANSWER_WITHIN, recv.read_to_end(1 << 20)).await;
        ended.with_context(|| format!("{size} bytes of kind {kind} are waited for"))?.ok();
    }
    leave(&connection);
    Ok(())
}

/// Frames that end before they are whole.
async fn truncated_frames(attacker: Arc<Attacker>, mut dice: Dice) -> Result<()> {
    let connection = attacker.greeted().await?;
    for whole in [hello(), open_produce(&attacker.bait), open_subscription(&attacker.bait)] {
        let (mut send, mut recv) = connection.open_bi().await?;
        let end = usize::try_from(dice.below(whole.len() as u64))?;
        send.write_all(&whole[..end]).await.ok();
        send.finish().ok();
        let ended = tokio::time::timeout(ANSWER_WITHIN, recv.read_to_end(1 << 20)).await;
        ended.context("the stream does not end")?.ok();
    }
    leave(&connection);
    Ok(())
}

/// Batches of which all but the last byte come, on many streams: what they hold is bounded.
/// Meanwhile twelve other connections announce as long ones and send little of them.
async fn large_frames_held_back(attacker: Arc<Attacker>) -> Result<()> {
    let (mut announced_by, mut announced) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        let connection = attacker.greeted().await?;
        for _ in 0..8 {
            let (mut send, recv) = connection.open_bi().await?;
            send.write_all(&open_produce(&attacker.bait)).await?;
            send.write_all(&frame_that_claims(BATCH_MAX, 7, &[0; 1000])).await?;
            // Refused at once: no stream starts so.
            let (mut first, answer) = connection.open_bi().await?;
            first.write_all(&frame_that_claims(BATCH_MAX, 7, &[])).await?;
            announced.push((send, recv, first, answer));
        }
        announced_by.push(connection);
    }
    let connection = attacker.greeted().await?;
    let body = vec![0; BATCH_MAX as usize - 1];
    let mut held = Vec::new();
    for _ in 0..16 {
        let (mut send, recv) = connection.open_bi().await?;
        let mut bytes = open_produce(&attacker.bait);
        bytes.extend(frame_that_claims(BATCH_MAX, 7, &body));
        // Flow control stops what the broker has no room for, on this stream or, where the
        // connection's window is full, on all of them.
        let sent = tokio::time::timeout(Duration::from_millis(200), send.write_all(&bytes)).await;
        held.push((send, recv, sent.is_ok()));
    }
    ensure!(held.iter().any(|(.., whole)| !whole), "256 MiB were taken from one connection");
    leave(&connection);
    announced_by.iter().for_each(leave);
    Ok(())
}

/// A produce session whose batches are none, mixed with halves of frames.
async fn garbage_batches(attacker: Arc<Attacker>, mut dice: Dice) -> Result<()> {
    let (connection, mut send, mut recv) = attacker.stream().await?;
    send.write_all(&open_produce(&attacker.bait)).await?;
    for _ in 0..30 {
        let length = usize::try_from(dice.below(3000))?;
        let mut body = dice.bytes(length);
        if length > 61 && dice.below(2) == 0 {
            // Lengths and magic of a batch, so that its CRC is looked at.
            body[..8].fill(0);
            body[8..12].copy_from_slice(&u32::try_from(length - 12)?.to_be_bytes());
            body[16] = 2;
        }
        send.write_all(&frame(7, &body)).await.ok();
    }
    send.finish().ok();
    let answers = tokio::time::timeout(ANSWER_WITHIN, recv.read_to_end(1 << 20)).await;
    let answers = answers.context("the session does not end")??;
    ensure!(answers.len() > 30 * 8, "batches were not answered: {} bytes", answers.len());
    leave(&connection);
    Ok(())
}

/// As many streams as the broker allows, with one byte each.
async fn flood_of_streams(attacker: Arc<Attacker>) -> Result<()> {
    let connection = attacker.greeted().await?;
    let mut held = Vec::new();
    for _ in 0..5000 {
        let opened = tokio::time::timeout(Duration::from_millis(200), connection.open_bi()).await;
        let Ok(opened) = opened else { break };
        let (mut send, recv) = opened?;
        send.write_all(&[0]).await?;
        held.push((send, recv));
    }
    ensure!((500..5000).contains(&held.len()), "{} streams", held.len());
    leave(&connection);
    Ok(())
}

/// Many connections at once; some may be turned away.
async fn flood_of_connections(attacker: Arc<Attacker>) -> Result<()> {
    let mut connecting = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let attacker = Arc::clone(&attacker);
        connecting.spawn(async move { attacker.greeted().await });
    }
    let connected = connecting.join_all().await;
    ensure!(connected.iter().any(Result::is_ok), "nobody gets in");
    tokio::time::sleep(Duration::from_millis(200)).await;
    connected.iter().flatten().for_each(leave);
    Ok(())
}

/// Subscriptions of which not a byte is read.
async fn never_read(attacker: Arc<Attacker>) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..2 {
        let connection = attacker.greeted().await?;
        for _ in 0..20 {
            let (mut send, recv) = connection.open_bi().await?;
            send.write_all(&open_subscription(&attacker.bait)).await?;
            send.finish()?;
            held.push((send, recv));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(connection.close_reason().is_none(), "{:?}", connection.close_reason());
        leave(&connection);
    }
    Ok(())
}

/// Calls with long replies, on streams whose window is never extended: what the broker keeps of
/// the replies is bounded. It may well refuse, reset or leave the rest.
async fn calls_never_read(attacker: Arc<Attacker>) -> Result<()> {
    let mut attacker = (*attacker).clone();
    attacker.stream_window = UNREAD_WINDOW;
    let connection = attacker.greeted().await?;
    let request = metadata_request(UNKNOWN_TOPICS);
    let mut held = Vec::new();
    for _ in 0..UNREAD_CALLS {
        let opened = tokio::time::timeout(PATIENCE, connection.open_bi()).await;
        let Ok(Ok((mut send, recv))) = opened else { break };
        let sent = tokio::time::timeout(PATIENCE, send.write_all(&request)).await;
        send.finish().ok();
        let taken = matches!(sent, Ok(Ok(())));
        held.push((send, recv));
        if !taken {
            break;
        }
    }
    ensure!(held.len() >= 100, "no more than {} calls were taken", held.len());
    // Long enough for the answers to be made.
    tokio::time::sleep(Duration::from_secs(1)).await;
    leave(&connection);
    Ok(())
}

/// So many subscriptions of which not a byte is read; they last as long as what is returned.
pub(crate) async fn never_reading(
    attacker: &Attacker,
    count: usize,
) -> Result<(Connection, Vec<(SendStream, RecvStream)>)> {
    let connection = attacker.greeted().await?;
    let mut held = Vec::new();
    for _ in 0..count {
        let (mut send, recv) = connection.open_bi().await?;
        send.write_all(&open_subscription(&attacker.bait)).await?;
        send.finish()?;
        held.push((send, recv));
    }
    Ok((connection, held))
}

/// Streams that are reset in the middle of a frame, and answers that nobody wants any more.
async fn resets(attacker: Arc<Attacker>, mut dice: Dice) -> Result<()> {
    let connection = attacker.greeted().await?;
    for _ in 0..20 {
        let (mut send, mut recv) = connection.open_bi().await?;
        let whole = open_subscription(&attacker.bait);
        let end = usize::try_from(dice.below(whole.len() as u64 + 1))?;
        send.write_all(&whole[..end]).await?;
        send.reset(VarInt::from_u32(7)).ok();
        recv.stop(VarInt::from_u32(7)).ok();
    }
    leave(&connection);
    Ok(())
}
