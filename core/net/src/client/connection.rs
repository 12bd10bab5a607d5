//! A connection to one broker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_wire::api::{
    FrameBody, HelloReply, OpenProduce, OpenSubscription, ProduceOpened, Reply, Request, Response,
    SubscriptionOpened, TraceId, read_response, request_frame,
};
use millstream_wire::frame::FrameKind;
use quinn::SendStream;

use super::ConnectorConfig;
use super::error::{CallError, CloseReason, StreamError};
use super::streams::{AckReceiver, BatchReceiver, ProduceSender};
use crate::close_code;
use crate::counters::Counters;
use crate::frames::{Frame, FrameReader, send_bytes};

/// A connection on which Hello is said. Clones share it; it closes when the last is dropped, or by
/// [`Connection::close`].
#[derive(Clone)]
pub struct Connection {
    quic: quinn::Connection,
    hello: Arc<HelloReply>,
    config: Arc<ConnectorConfig>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer())
            .field("hello", &self.hello)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(
        quic: quinn::Connection,
        hello: HelloReply,
        config: Arc<ConnectorConfig>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { quic, hello: Arc::new(hello), config, counters }
    }

    /// What the broker answered to Hello.
    #[must_use]
    pub fn hello(&self) -> &HelloReply {
        &self.hello
    }

    /// The broker's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Makes one call and waits for its answer, for at most `timeout`; the broker is told, and
    /// gives up as well. Dropping the future tells the broker that the answer is no longer wanted.
    ///
    /// # Errors
    /// [`CallError`], which says whether to try again.
    pub async fn request(
        &self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        self.request_traced(request, timeout, TraceId::default()).await
    }

    /// [`Connection::request`] under the caller's trace.
    ///
    /// # Errors
    /// [`CallError`], which says whether to try again.
    pub async fn request_traced(
        &self,
        request: &Request,
        timeout: Duration,
        trace: TraceId,
    ) -> Result<Response, CallError> {
        let deadline_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        let frame = request_frame(deadline_ms, trace, request)
            .map_err(|error| CallError::Protocol(error.to_string()))?;
        let call = async {
            let (mut send, _reader, answer) = self.ask(frame, true).await?;
            drop(send.finish());
            let answer = expect(answer, FrameKind::Response)?;
            let reply = read_response(request.api(), &answer.body)
                .map_err(|error| CallError::Protocol(error.to_string()))?;
            reply.map_err(CallError::Service)
        };
        self.within(timeout, call).await
    }

    /// Opens a produce stream on one partition.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Service`] with a leader hint when another broker leads.
    pub async fn open_produce(
        &self,
        open: OpenProduce,
    ) -> Result<(ProduceOpened, ProduceSender, AckReceiver), CallError> {
        let opening = async {
            let frame = encode(&open)?;
            let (send, reader, answer) = self.ask(frame, false).await?;
            let opened: ProduceOpened = self.opened(answer, FrameKind::ProduceOpened)?;
            let sender = ProduceSender::new(send, Arc::clone(&self.counters));
            Ok((opened, sender, AckReceiver::new(reader)))
        };
        self.within(self.config.open_timeout, opening).await
    }

    /// Opens a subscription to one partition.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Service`] with a leader hint when another broker leads.
    pub async fn subscribe(
        &self,
        open: OpenSubscription,
    ) -> Result<(SubscriptionOpened, BatchReceiver), CallError> {
        let opening = async {
            let frame = encode(&open)?;
            let (_send, reader, answer) = self.ask(frame, true).await?;
            let opened: SubscriptionOpened = self.opened(answer, FrameKind::SubscriptionOpened)?;
            Ok((opened, BatchReceiver::new(reader)))
        };
        self.within(self.config.open_timeout, opening).await
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.quic.close_reason().is_some()
    }

    /// Waits until the connection is over, and says why it is.
    pub async fn closed(&self) -> CloseReason {
        self.quic.closed().await.into()
    }

    /// Closes the connection at once; what was not acknowledged is lost. `reason` is for the
    /// broker's log.
    pub fn close(&self, reason: &str) {
        self.quic.close(close_code::DONE.into(), reason.as_bytes());
    }

    /// Opens a stream, sends its first frame and reads the first that comes back.
    async fn ask(
        &self,
        frame: Bytes,
        finish: bool,
    ) -> Result<(SendStream, FrameReader, Option<Frame>), CallError> {
        let opened = self.quic.open_bi().await;
        let (mut send, recv) = opened.map_err(|error| CallError::ConnectionLost(error.into()))?;
        let counters = Arc::clone(&self.counters);
        let mut reader = FrameReader::new(recv, counters, self.config.frame_timeout);
        match send_bytes(&mut send, &self.counters, frame).await.map_err(StreamError::from) {
            // A broker that stops reading has said why, and that is still to be read.
            Ok(()) | Err(StreamError::Stopped(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if finish {
            // Fails only where the broker has stopped reading.
            drop(send.finish());
        }
        let answer = reader.next().await.map_err(StreamError::from)?;
        Ok((send, reader, answer))
    }

    fn opened<T>(&self, answer: Option<Frame>, kind: FrameKind) -> Result<T, CallError>
    where
        Reply<T>: FrameBody,
    {
        let answer = expect(answer, kind)?;
        let Reply(reply) = Reply::<T>::from_body(&answer.body)
            .map_err(|error| CallError::Protocol(error.to_string()))?;
        reply.map_err(CallError::Service)
    }

    async fn within<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        tokio::time::timeout(timeout, work).await.unwrap_or(Err(CallError::Timeout(timeout)))
    }
}

fn encode(body: &impl FrameBody) -> Result<Bytes, CallError> {
    body.to_frame().map_err(|error| CallError::Protocol(error.to_string()))
}

/// The answer, if it is of that kind. A broker that cannot use a stream's first frame answers with
/// a Response, whatever was asked.
fn expect(answer: Option<Frame>, kind: FrameKind) -> Result<Frame, CallError> {
    let Some(answer) = answer else {
        return Err(CallError::Protocol("the broker did not answer".to_owned()));
    };
    if answer.kind == kind {
        return Ok(answer);
    }
    if answer.kind == FrameKind::Response {
        let api = millstream_wire::api::ApiKey::Metadata;
        if let Ok(Err(error)) = read_response(api, &answer.body) {
            return Err(CallError::Service(error));
        }
    }
    Err(CallError::Protocol(format!("{kind:?} was expected, {:?} came", answer.kind)))
}
