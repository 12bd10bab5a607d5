//! Subscriptions that take little or nothing: what they were to be sent is let go, and is there
//! again when they go on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::*;
use crate::hostile::{exchange, hello, raw_with};
use millstream_net::close_code;
use millstream_wire::api::FrameBody;
use quinn::{ReadExactError, RecvStream, VarInt};

const PAUSES: &str = "quic_subscription_pauses_total";
/// Smaller than a piece of `OLD`.
const WINDOW_BYTES: u32 = 256 * 1024;

/// A subscription to `OLD` whose client gives it little room; the client must live as long.
struct Slow {
    _endpoint: quinn::Endpoint,
    _connection: quinn::Connection,
    recv: RecvStream,
}

impl Slow {
    async fn subscribe(cluster: &Cluster) -> Self {
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(WINDOW_BYTES));
        let (endpoint, connection) = raw_with(cluster, transport).await;
        exchange(&connection, &hello(1, 1, "default")).await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&open_subscription(OLD).to_frame().unwrap()).await.unwrap();
        send.finish().unwrap();
        let (kind, _) = frame(&mut recv).await;
        assert_eq!(kind, 10, "a SubscriptionOpened");
        Self { _endpoint: endpoint, _connection: connection, recv }
    }

    /// Reads the frame with the piece of this number, which must be as it was made.
    async fn expect_piece(&mut self, number: usize) {
        let (kind, body) = frame(&mut self.recv).await;
        assert_eq!(kind, 11, "a Batches");
        assert_eq!(body[..8], (number as u64 + 1).to_be_bytes(), "the high watermark");
        assert!(body[8..] == old_piece(number), "piece {number}");
    }
}

async fn frame(recv: &mut RecvStream) -> (u8, Vec<u8>) {
    let mut header = [0; 8];
    tokio::time::timeout(WAIT, recv.read_exact(&mut header)).await.unwrap().unwrap();
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let mut body = vec![0; length as usize];
    tokio::time::timeout(WAIT, recv.read_exact(&mut body)).await.unwrap().unwrap();
    (header[4], body)
}

#[tokio::test]
async fn what_is_not_taken_is_let_go_and_comes_again() {
    let cluster = Cluster::start();
    let mut slow = Slow::subscribe(&cluster).await;
    for number in [0, 1] {
        let pauses = cluster.counter(PAUSES);
        eventually("it is let go", || cluster.counter(PAUSES) > pauses).await;
        eventually("all of it", || cluster.memory.lent_bytes.load(Ordering::SeqCst) == 0).await;
        slow.expect_piece(number).await;
    }
    let pauses = cluster.counter(PAUSES);
    for number in 2..20 {
        slow.expect_piece(number).await;
    }
    assert_eq!(cluster.counter(PAUSES), pauses, "a client that reads is not held up");
}

#[tokio::test]
async fn readers_that_never_read_hold_nothing_and_stop_nobody() {
    let cluster = Cluster::start();
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(Slow::subscribe(&cluster).await);
    }
    eventually("they are let go", || cluster.counter(PAUSES) >= 20).await;
    eventually("all of them", || cluster.memory.lent_bytes.load(Ordering::SeqCst) == 0).await;
    let mut reader = Slow::subscribe(&cluster).await;
    for number in 0..5 {
        reader.expect_piece(number).await;
    }
    // Asked for once, and not again for those who took nothing since.
    assert_eq!(cluster.counter(PAUSES), 20);
}

#[tokio::test]
async fn a_slow_reader_has_its_turn_while_others_wait() {
    let cluster = Cluster::start();
    cluster.memory.is_short.store(true, Ordering::SeqCst);
    let mut slow = Slow::subscribe(&cluster).await;
    // Never without progress for long, so that only the turn's end lets go.
    let mut read = Vec::new();
    while cluster.counter(PAUSES) == 0 {
        let mut bytes = [0; 16 * 1024];
        tokio::time::timeout(WAIT, slow.recv.read_exact(&mut bytes)).await.unwrap().unwrap();
        read.extend(bytes);
        assert!(read.len() < OLD_PIECE_BYTES, "it has taken all");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut rest = vec![0; 16 + OLD_PIECE_BYTES - read.len()];
    slow.recv.read_exact(&mut rest).await.unwrap();
    read.extend(rest);
    assert!(read[16..] == old_piece(0));
    slow.expect_piece(1).await;
}

#[tokio::test]
async fn who_overstays_is_told_and_ends() {
    let cluster = Cluster::start();
    let mut slow = Slow::subscribe(&cluster).await;
    eventually("it was let go", || cluster.counter(PAUSES) > 0).await;
    cluster.memory.overstayed.notify_one();
    eventually("it ends", || cluster.counter("quic_subscriptions_overstayed_total") == 1).await;
    let mut bytes = vec![0; 2 * OLD_PIECE_BYTES];
    let read = tokio::time::timeout(WAIT, slow.recv.read_exact(&mut bytes)).await.unwrap();
    let code = VarInt::from_u32(close_code::TOO_SLOW);
    assert_eq!(read, Err(ReadExactError::ReadError(quinn::ReadError::Reset(code))));
    eventually("it is gone", || cluster.memory.subscriptions.load(Ordering::SeqCst) == 0).await;
    assert_eq!(cluster.memory.lent_bytes.load(Ordering::SeqCst), 0);
}
