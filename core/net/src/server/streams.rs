//! One stream: its first frame says what it is for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_service::{Request, RequestContext, Service, ServiceError, TraceId};
use millstream_types::ErrorCode;
use millstream_wire::api::{Call, OpenProduce, OpenSubscription, Response, response_frame};
use millstream_wire::api::{End, FrameBody};
use millstream_wire::frame::{FrameError, FrameKind};
use quinn::{RecvStream, SendStream};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::connection::{Client, finish};
use super::replies::{FREE_BYTES_MAX, PATIENCE, PATIENCE_PER_MIB, PAUSE_MAX, Room};
use super::{produce, subscribe};
use crate::close_code;
use crate::counters::{Counters, Gauge, add};
use crate::frames::{Frame, FrameReader, ReadFrameError, send_bytes};

/// Replies up to this size are written as frames by the thread that answers.
const INLINE_BYTES_MAX: usize = 256 * 1024;
/// How much longer than a short one a client may take for each mebibyte of a reply: as a link of
/// 1 Mbit/s does.
const TIMEOUT_PER_MIB: Duration = Duration::from_secs(8);
/// How often a client that takes nothing is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A reply's frame, and its memory if it needs any.
type Framed = (Bytes, Option<Room>);

/// What a stream may start with. Hello is for the connection's first stream alone.
const OPENING: &[FrameKind] =
    &[FrameKind::Request, FrameKind::OpenProduce, FrameKind::OpenSubscription];

/// One stream's two directions and what they belong to.
pub(crate) struct Stream<S> {
    pub(crate) client: Arc<Client<S>>,
    pub(crate) send: SendStream,
    pub(crate) reader: FrameReader,
}

/// Serves one stream to its end.
pub(crate) async fn serve<S: Service>(client: Arc<Client<S>>, send: SendStream, recv: RecvStream) {
    let counters = Arc::clone(&client.shared.counters);
    add(&counters.streams, 1);
    let _open = Gauge::new(Arc::clone(&counters), |counters| &counters.streams_open);
    let frame_timeout = client.shared.config.frame_timeout;
    let reader = FrameReader::new(recv, counters, frame_timeout).with_memory(client.memory.clone());
    let mut stream = Stream { client, send, reader };
    stream.reader.accept(OPENING);
    let first = match tokio::time::timeout(frame_timeout, stream.reader.next()).await {
        Ok(Ok(Some(frame))) => frame,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return stream.refuse(&error).await,
        Err(_late) => return stream.refuse(&ReadFrameError::Late(frame_timeout)).await,
    };
    match first.kind {
        FrameKind::Request => stream.call(first).await,
        FrameKind::OpenProduce => match decode::<OpenProduce>(first) {
            Ok(open) => produce::serve(stream, open).await,
            Err(error) => stream.reject(error).await,
        },
        FrameKind::OpenSubscription => match decode::<OpenSubscription>(first) {
            Ok(open) => subscribe::serve(stream, open).await,
            Err(error) => stream.reject(error).await,
        },
        kind => {
            let message = format!("a stream cannot start with a {kind:?} frame");
            stream.reject(ServiceError::new(ErrorCode::InvalidRequest, message)).await;
        }
    }
}

/// Consumes the frame: a stream must not hold its first frame's memory for as long as it lives.
fn decode<T: FrameBody>(frame: Frame) -> Result<T, ServiceError> {
    Ok(T::from_body(&frame.body)?)
}

/// What the peer is told about a stream that cannot be read on; `None` when it is gone itself.
pub(crate) fn unreadable(error: &ReadFrameError) -> Option<ServiceError> {
    let code = match error {
        ReadFrameError::Lost(_) => return None,
        ReadFrameError::Frame(FrameError::TooLong { .. }) => ErrorCode::LimitExceeded,
        ReadFrameError::Frame(FrameError::UnknownVersion(_)) => ErrorCode::UnsupportedVersion,
        ReadFrameError::Late(_) | ReadFrameError::Slow => ErrorCode::TimedOut,
        ReadFrameError::Frame(FrameError::UnknownKind(_))
        | ReadFrameError::Misplaced(_)
        | ReadFrameError::Truncated => ErrorCode::InvalidRequest,
    };
    Some(ServiceError::new(code, error.to_string()))
}

impl<S: Service> Stream<S> {
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.client.shared.counters
    }

    pub(crate) fn context(&self, trace: TraceId, deadline: Option<Duration>) -> RequestContext {
        RequestContext {
            principal: self.client.principal.clone(),
            client_id: Arc::clone(&self.client.client_id),
            namespace: Arc::clone(&self.client.namespace),
            deadline,
            trace,
            peer: self.client.peer,
        }
    }

    /// Sends the little that ends our side of the stream.
    pub(crate) async fn send_last(&mut self, frame: Bytes) {
        let counters = Arc::clone(&self.client.shared.counters);
        let sent = async {
            if send_bytes(&mut self.send, &counters, frame).await.is_ok() {
                finish(&mut self.send, true).await;
            }
        };
        if tokio::time::timeout(self.client.shared.config.reply_timeout, sent).await.is_err() {
            self.give_up();
        }
    }

    /// Ends a session or subscription with the reason.
    pub(crate) async fn end(&mut self, error: ServiceError) {
        self.reader.stop(close_code::DONE);
        // An error's fields are cut to fit, so that its frame can always be written.
        if let Ok(frame) = End(error).to_frame() {
            self.send_last(frame).await;
        }
    }

    /// Gives up on a client that does not read, with all that was not acknowledged.
    pub(crate) fn abandon(&mut self, code: u32) {
        // Fails only when the stream is over already.
        drop(self.send.reset(code.into()));
    }

    /// Answers a first frame that breaks the protocol.
    async fn reject(mut self, error: ServiceError) {
        add(&self.counters().protocol_errors, 1);
        self.reader.stop(close_code::PROTOCOL);
        if let Ok(frame) = response_frame(&Err(error)) {
            self.send_last(frame).await;
        }
    }

    /// Answers a stream whose first frame cannot be read.
    async fn refuse(self, error: &ReadFrameError) {
        if let Some(error) = unreadable(error) {
            self.reject(error).await;
        }
    }

    /// A unary call. Given up when the client no longer waits for it.
    async fn call(mut self, frame: Frame) {
        let call = match Call::from_body(&frame.body) {
            Ok(call) => call,
            Err(error) => return self.reject(error.into()).await,
        };
        let deadline =
            (call.deadline_ms > 0).then(|| Duration::from_millis(call.deadline_ms.into()));
        let context = self.context(call.trace, deadline);
        let stopped = self.send.stopped();
        let answered = tokio::select! {
            answered = self.answer(context, call.request, &frame.body) => answered,
            _ = stopped => return,
        };
        drop(frame);
        match answered {
            Ok((frame, Some(room))) => self.send_long(frame, room).await,
            Ok((frame, None)) => self.send_last(frame).await,
            // An error's fields are cut to fit, so that its frame can always be written.
            Err(error) => {
                if let Ok(frame) = response_frame(&Err(error)) {
                    self.send_last(frame).await;
                }
            }
        }
    }

    async fn answer(
        &self,
        context: RequestContext,
        request: Request,
        body: &[u8],
    ) -> Result<Framed, ServiceError> {
        let deadline = context.deadline;
        let api = request.api();
        let service = &self.client.shared.service;
        let bytes = service.reply_bytes_max(&request);
        // One that may wait is read again, since its names are larger singly than in their frame.
        let short = (bytes <= FREE_BYTES_MAX).then_some(request);
        let work = async {
            let room = self.room(self.client.replies.to_build(bytes)).await?;
            let request = match short {
                Some(request) => request,
                None => Call::from_body(body)?.request,
            };
            let response = service.unary(context, request).await?;
            self.framed(response, room).await
        };
        let Some(deadline) = deadline else { return work.await };
        tokio::time::timeout(deadline, work).await.unwrap_or_else(|_late| {
            let message = format!("{api:?} took longer than {} ms", deadline.as_millis());
            Err(ServiceError::new(ErrorCode::TimedOut, message))
        })
    }

    /// Waits for a reply's memory, for no longer than a client may make others wait.
    async fn room(
        &self,
        taken: impl Future<Output = Option<Room>>,
    ) -> Result<Option<Room>, ServiceError> {
        let within = self.client.shared.config.reply_timeout;
        tokio::time::timeout(within, taken).await.map_err(|_late| {
            let message = "other replies held all memory for replies for too long: take those \
                           that this connection was sent, or ask again later";
            ServiceError::new(ErrorCode::TimedOut, message)
        })
    }

    /// The response as a frame, and nothing else of it.
    async fn framed(&self, response: Response, room: Option<Room>) -> Result<Framed, ServiceError> {
        let reply_bytes = room.as_ref().map_or(0, Room::reply_bytes);
        let (frame, room) = if reply_bytes <= INLINE_BYTES_MAX {
            (write_frame(response)?, room)
        } else {
            // The memory stays taken until the task ends, whether anybody waits for it or not.
            let written = spawn_blocking(move || (write_frame(response), room));
            let (frame, room) = written.await.map_err(|error| {
                ServiceError::new(ErrorCode::Internal, format!("the reply ended: {error}"))
            })?;
            (frame?, room)
        };
        let kept = match room {
            Some(mut room) if frame.len() <= room.reply_bytes() => {
                room.shrink(frame.len());
                Some(room)
            }
            // Longer than was foreseen. Whoever waits must not have a part.
            room => {
                drop(room);
                self.room(self.client.replies.to_keep(frame.len())).await?
            }
        };
        Ok((frame, kept))
    }

    /// Sends a reply that has memory, which it gives back once the transport has all of it. A
    /// client that does not take it in time loses it.
    async fn send_long(&mut self, frame: Bytes, room: Room) {
        let mebibytes = u32::try_from(frame.len() >> 20).unwrap_or(u32::MAX);
        let begun = Instant::now();
        let patient_until = begun + PATIENCE + PATIENCE_PER_MIB.saturating_mul(mebibytes);
        let timeout = self.client.shared.config.reply_timeout;
        let deadline = begun + timeout + TIMEOUT_PER_MIB.saturating_mul(mebibytes);
        let mut moved = begun;
        let mut rest = &frame[..];
        while !rest.is_empty() {
            // Copied as the window allows: a piece of the frame would keep all of it.
            let written = tokio::time::timeout(LOOK_EVERY, self.send.write(rest)).await;
            let now = Instant::now();
            match written {
                Ok(Ok(count)) => {
                    rest = rest.get(count..).unwrap_or_default();
                    moved = now;
                }
                Ok(Err(_gone)) => return,
                Err(_elapsed) => {}
            }
            let slow = now >= patient_until || now - moved >= PAUSE_MAX;
            if now >= deadline || slow && room.keeps_others_waiting() {
                return self.give_up();
            }
        }
        add(&self.counters().bytes_out, frame.len());
        add(&self.counters().bytes_copied, frame.len());
        drop((frame, room));
        if tokio::time::timeout_at(deadline, finish(&mut self.send, true)).await.is_err() {
            self.give_up();
        }
    }

    /// Gives up on a client that does not take what it asked for.
    fn give_up(&mut self) {
        add(&self.counters().replies_abandoned, 1);
        self.abandon(close_code::TOO_SLOW);
    }
}

/// Takes the response apart, so that nothing of it is left beside its frame.
fn write_frame(response: Response) -> Result<Bytes, ServiceError> {
    response_frame(&Ok(response)).map_err(|error| {
        let message = format!("the reply cannot be sent: {error}; ask for less at once");
        ServiceError::new(ErrorCode::LimitExceeded, message)
    })
}
