//! One stream: its first frame says what it is for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_service::{RequestContext, Service, ServiceError, TraceId};
use millstream_types::ErrorCode;
use millstream_wire::api::{Call, OpenProduce, OpenSubscription, Response, response_frame};
use millstream_wire::api::{End, FrameBody};
use millstream_wire::frame::{FrameError, FrameKind};
use quinn::{RecvStream, SendStream};

use super::connection::{Client, finish};
use super::{produce, subscribe};
use crate::close_code;
use crate::counters::{Counters, Gauge, add};
use crate::frames::{Frame, FrameReader, ReadFrameError, send_bytes};

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

    /// Sends what ends our side of the stream.
    pub(crate) async fn send_last(&mut self, frame: Bytes) {
        let counters = Arc::clone(&self.client.shared.counters);
        if send_bytes(&mut self.send, &counters, frame).await.is_ok() {
            finish(&mut self.send, true).await;
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
        let reply = tokio::select! {
            reply = self.answer(context, call) => reply,
            _ = stopped => return,
        };
        drop(frame);
        let frame = response_frame(&reply).or_else(|error| {
            tracing::error!(%error, "a response does not fit its frame");
            let message = format!("the response cannot be sent: {error}");
            response_frame(&Err(ServiceError::new(ErrorCode::LimitExceeded, message)))
        });
        if let Ok(frame) = frame {
            self.send_last(frame).await;
        }
    }

    async fn answer(&self, context: RequestContext, call: Call) -> Result<Response, ServiceError> {
        let deadline = context.deadline;
        let api = call.request.api();
        let unary = self.client.shared.service.unary(context, call.request);
        let Some(deadline) = deadline else { return unary.await };
        tokio::time::timeout(deadline, unary).await.unwrap_or_else(|_late| {
            let message = format!("{api:?} took longer than {} ms", deadline.as_millis());
            Err(ServiceError::new(ErrorCode::TimedOut, message))
        })
    }
}
