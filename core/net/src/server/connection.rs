//! One connection: handshake, Hello, then a task for each stream, until both sides are done.

use std::net::SocketAddr;
use std::sync::Arc;

use millstream_service::{Principal, Service, ServiceError};
use millstream_types::ErrorCode;
use millstream_types::limits::{BATCH_BYTES_MAX, FRAME_BODY_BYTES_MAX, PRODUCE_IN_FLIGHT_MAX};
use millstream_wire::api::{FrameBody, Hello, HelloReply, Reply};
use millstream_wire::frame::{FrameKind, PROTOCOL_VERSION};
use quinn::{Connection, Incoming, RecvStream, SendStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::admission::Slot;
use super::replies::Replies;
use super::{Shared, report_panic, streams};
use crate::close_code;
use crate::counters::{Gauge, add};
use crate::frames::{FrameReader, ReadFrameError, send_bytes};
use crate::memory::Memory;
use crate::tls;
use crate::windows::Share;

/// The only namespace so far.
const NAMESPACE: &str = "default";

/// What the streams of one connection share.
pub(crate) struct Client<S> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) peer: SocketAddr,
    pub(crate) principal: Principal,
    pub(crate) client_id: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) memory: Memory,
    pub(crate) replies: Replies,
}

/// Why a connection ends before it serves a stream.
enum Unwelcome {
    Late,
    Protocol(String),
    Refused(String),
    Lost,
}

/// Serves one connection from its first packet to its end.
pub(crate) async fn serve<S: Service>(shared: Arc<Shared<S>>, incoming: Incoming, slot: Slot) {
    let peer = incoming.remote_address();
    let deadline = Instant::now() + shared.config.handshake_timeout;
    let connection = match incoming.accept() {
        Ok(connecting) => match timeout_at(deadline, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                add(&shared.counters.refused, 1);
                tracing::debug!(%peer, %error, "handshake failed");
                return;
            }
            Err(_late) => {
                add(&shared.counters.refused, 1);
                tracing::debug!(%peer, "handshake took too long");
                return;
            }
        },
        Err(error) => {
            add(&shared.counters.refused, 1);
            tracing::debug!(%peer, %error, "connection attempt failed");
            return;
        }
    };
    let welcome = match timeout_at(deadline, welcome(&shared, &connection)).await {
        Ok(welcome) => welcome,
        Err(_late) => Err(Unwelcome::Late),
    };
    let hello = match welcome {
        Ok(hello) => hello,
        Err(why) => return turn_away(&shared, &connection, &why),
    };
    established(shared, connection, slot, &hello).await;
}

async fn established<S: Service>(
    shared: Arc<Shared<S>>,
    connection: Connection,
    mut slot: Slot,
    hello: &Hello,
) {
    slot.established();
    let peer = connection.remote_address();
    add(&shared.counters.connections, 1);
    let _open = Gauge::new(Arc::clone(&shared.counters), |counters| &counters.connections_open);
    let per_connection = shared.config.connection_receive_bytes_max;
    let memory = Memory::new(per_connection, Arc::clone(&shared.memory));
    let replies = Replies::new(Arc::clone(&shared.replies));
    let principal = tls::principal(&connection, peer);
    let Hello { client_id, software_name, software_version, .. } = hello;
    tracing::debug!(%peer, client_id, software_name, software_version, ?principal, "connected");
    let client = Client {
        peer,
        principal,
        client_id: hello.client_id.as_str().into(),
        namespace: hello.namespace.as_str().into(),
        memory,
        replies,
        shared,
    };
    let share = client.shared.windows.share();
    share.apply(&connection);
    let streams = client.shared.config.transport.streams();
    connection.set_max_concurrent_bi_streams(streams.into());
    accept_streams(&Arc::new(client), &connection, share).await;
}

/// Accepts streams until the connection is lost or the server stops, then waits for those that
/// are open.
async fn accept_streams<S: Service>(
    client: &Arc<Client<S>>,
    connection: &Connection,
    mut share: Share,
) {
    let mut stop = client.shared.stop.clone();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    if share.grow() {
                        share.apply(connection);
                    }
                    tasks.spawn(streams::serve(Arc::clone(client), send, recv));
                }
                Err(error) => {
                    tracing::debug!(peer = %client.peer, %error, "disconnected");
                    break;
                }
            },
            Some(ended) = tasks.join_next() => report_panic(ended),
            _ = stop.wait_for(Option::is_some) => break,
        }
    }
    // With the connection lost each stream sees it and ends; when stopping, each ends by itself or
    // is ended by the server's deadline.
    while let Some(ended) = tasks.join_next().await {
        report_panic(ended);
    }
    connection.close(close_code::SHUTTING_DOWN.into(), b"shutting down");
}

/// Reads Hello off the connection's first stream and answers it.
async fn welcome<S: Service>(
    shared: &Arc<Shared<S>>,
    connection: &Connection,
) -> Result<Hello, Unwelcome> {
    let (mut send, recv) = connection.accept_bi().await.or(Err(Unwelcome::Lost))?;
    let outcome = read_hello(shared, recv).await;
    let (reply, result) = match outcome {
        Ok(hello) => match check(&hello) {
            Ok(()) => (Ok(hello_reply(shared)), Ok(hello)),
            Err(error) => (Err(error.clone()), Err(Unwelcome::Refused(error.to_string()))),
        },
        Err(Unwelcome::Protocol(detail)) => {
            let error = ServiceError::new(ErrorCode::InvalidRequest, detail.clone());
            (Err(error), Err(Unwelcome::Protocol(detail)))
        }
        Err(other) => return Err(other),
    };
    let frame = Reply(reply).to_frame().map_err(|error| Unwelcome::Protocol(error.to_string()))?;
    send_bytes(&mut send, &shared.counters, frame).await.or(Err(Unwelcome::Lost))?;
    finish(&mut send, result.is_err()).await;
    result
}

async fn read_hello<S>(shared: &Arc<Shared<S>>, recv: RecvStream) -> Result<Hello, Unwelcome> {
    let counters = Arc::clone(&shared.counters);
    let mut reader = FrameReader::new(recv, counters, shared.config.frame_timeout);
    reader.accept(&[FrameKind::Hello]);
    let frame = match reader.next().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(Unwelcome::Protocol("the first stream is empty".to_owned())),
        Err(ReadFrameError::Misplaced(_)) => {
            return Err(Unwelcome::Protocol("the first frame must be Hello".to_owned()));
        }
        Err(error) => return Err(Unwelcome::Protocol(error.to_string())),
    };
    Hello::from_body(&frame.body).map_err(|error| Unwelcome::Protocol(error.to_string()))
}

fn check(hello: &Hello) -> Result<(), ServiceError> {
    if !(hello.version_min..=hello.version_max).contains(&PROTOCOL_VERSION) {
        let (low, high) = (hello.version_min, hello.version_max);
        let message = format!("this broker speaks version {PROTOCOL_VERSION}, not {low} to {high}");
        return Err(ServiceError::new(ErrorCode::UnsupportedVersion, message));
    }
    if hello.namespace != NAMESPACE {
        let message = format!("the only namespace is {NAMESPACE:?}");
        return Err(ServiceError::new(ErrorCode::InvalidRequest, message));
    }
    Ok(())
}

fn hello_reply<S>(shared: &Shared<S>) -> HelloReply {
    let bound = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    HelloReply {
        version: PROTOCOL_VERSION,
        cluster: shared.config.cluster,
        broker: shared.config.broker,
        frame_bytes_max: bound(FRAME_BODY_BYTES_MAX),
        batch_bytes_max: bound(BATCH_BYTES_MAX),
        streams_max: shared.config.transport.streams(),
        in_flight_max: bound(PRODUCE_IN_FLIGHT_MAX),
        idle_timeout_ms: shared.config.transport.idle_timeout_ms(),
    }
}

fn turn_away<S>(shared: &Shared<S>, connection: &Connection, why: &Unwelcome) {
    let peer = connection.remote_address();
    add(&shared.counters.refused, 1);
    let (code, reason) = match why {
        Unwelcome::Late => (close_code::HELLO_TIMEOUT, "no Hello in time"),
        Unwelcome::Protocol(detail) => {
            add(&shared.counters.protocol_errors, 1);
            (close_code::PROTOCOL, detail.as_str())
        }
        Unwelcome::Refused(detail) => (close_code::HELLO_REFUSED, detail.as_str()),
        Unwelcome::Lost => (close_code::DONE, "lost"),
    };
    tracing::debug!(%peer, reason, "turned away");
    connection.close(code.into(), reason.as_bytes());
}

/// Ends our side of a stream. With `wait`, until the peer has it all: what follows may be the
/// connection's end, which would overtake it.
pub(crate) async fn finish(send: &mut SendStream, wait: bool) {
    // Both fail only when the peer no longer wants to know.
    if send.finish().is_ok() && wait {
        drop(send.stopped().await);
    }
}
