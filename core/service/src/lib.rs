//! The one service that every front calls, in its three shapes: unary calls, produce sessions and
//! subscriptions. A front turns its protocol into these calls and back; it decides nothing. The
//! broker implements the service and never sees a socket.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream_types::{ErrorCode, Offset};
pub use millstream_wire::api::{
    LeaderHint, OpenProduce, OpenSubscription, ProduceAck, ProduceOpened, Progress, Request,
    Response, ServiceError, SubscriptionOpened, TraceId,
};

/// On whose behalf a request is made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Principal {
    /// Nobody proved anything.
    Anonymous,
    /// The subject of a certificate that a trusted authority signed, as `CN=name, O=organisation`.
    Certificate(Arc<str>),
}

/// What every request carries besides its own fields.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// On whose behalf.
    pub principal: Principal,
    /// What the client calls itself; for logs, metrics and quotas, never for permissions.
    pub client_id: Arc<str>,
    /// The namespace of topic names.
    pub namespace: Arc<str>,
    /// How long the caller waits, from the moment that the front read the request. The front
    /// itself answers `timed-out` then and drops the call's future; a call may use this to give up
    /// earlier. `None` for sessions and subscriptions, and for calls without a limit.
    pub deadline: Option<Duration>,
    /// Ties the request to what the client logged.
    pub trace: TraceId,
    /// The client's address.
    pub peer: SocketAddr,
}

/// What comes of opening a subscription.
pub type Subscribed<S> = Result<(SubscriptionOpened, S), ServiceError>;

/// What a broker does for clients.
pub trait Service: Send + Sync + 'static {
    /// An open produce session.
    type Produce: ProduceSession + 'static;
    /// An open subscription.
    type Subscription: Subscription + 'static;

    /// Answers one request. The response is of the request's API.
    ///
    /// Dropping the future abandons the wait for the answer; what was asked may still happen.
    fn unary(
        &self,
        context: RequestContext,
        request: Request,
    ) -> impl Future<Output = Result<Response, ServiceError>> + Send;

    /// How long the reply to the request may become, in bytes; found without building any of it. A
    /// front takes memory for so much before it asks for the reply. One that becomes longer all
    /// the same is built, and then waits for what it lacks.
    fn reply_bytes_max(&self, request: &Request) -> usize;

    /// Opens a produce session on one partition.
    fn open_produce(
        &self,
        context: RequestContext,
        open: OpenProduce,
    ) -> impl Future<Output = Result<(ProduceOpened, Self::Produce), ServiceError>> + Send;

    /// Opens a subscription to one partition.
    fn subscribe(
        &self,
        context: RequestContext,
        open: OpenSubscription,
    ) -> impl Future<Output = Subscribed<Self::Subscription>> + Send;
}

/// A stream of batches into one partition.
pub trait ProduceSession: Send {
    /// Completes once the batch is stored as the session's `acks` ask, or is refused. Completions
    /// may come in any order; the front answers in the order of the batches.
    type Ack: Future<Output = Result<ProduceAck, ServiceError>> + Send + 'static;

    /// Hands over one batch, exactly as the client sent it and not yet validated. Batches take
    /// their places in call order; the call completes when this one has its own, or is refused,
    /// which takes long only where looking into the batch does.
    ///
    /// Dropping either future abandons the acknowledgement; the batch may be stored.
    fn append(&mut self, batch: BytesMut) -> impl Future<Output = Self::Ack> + Send;
}

/// What a subscription delivers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubscriptionEvent {
    /// Whole batches in offset order, as stored. Each `Bytes` may hold several back to back. Few
    /// and large pieces are cheap to send, many small ones are not.
    Batches {
        /// The batches; together within `limits::FRAME_BODY_BYTES_MAX` less the 8 bytes before
        /// them in a frame.
        batches: Vec<Bytes>,
        /// One past the last committed record, when these were read.
        high_watermark: Offset,
    },
    /// Nothing to deliver: where the partition stands. Once when the tail is reached, then about
    /// every 5 s while nothing is appended.
    Progress(Progress),
}

/// A stream of batches out of one partition.
pub trait Subscription: Send {
    /// Waits for the next event. An error ends the subscription.
    ///
    /// Cancel-safe: dropping the future loses no event.
    fn next(&mut self) -> impl Future<Output = Result<SubscriptionEvent, ServiceError>> + Send;

    /// Whether [`Subscription::again`] can deliver the last batches once more, so that a front need
    /// not keep what its client does not take.
    fn is_repeatable(&self) -> bool {
        false
    }

    /// Whether others wait for memory that this subscription's batches hold, wherever they are now.
    fn keeps_others_waiting(&self) -> bool {
        false
    }

    /// Completes if others have waited too long for memory that batches of this subscription hold
    /// in spite of all: the front must then let go of whatever it has sent and not seen
    /// acknowledged.
    fn overstayed(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::pending()
    }

    /// Lets go of what was read ahead: the client takes nothing at the moment.
    fn pause(&mut self) {}

    /// The batches of the last event once more, the same bytes, though perhaps in other pieces.
    /// For a front that has dropped them meanwhile. An error ends the subscription.
    ///
    /// Cancel-safe: it may be called again.
    fn again(&mut self) -> impl Future<Output = Result<Vec<Bytes>, ServiceError>> + Send {
        std::future::ready(Err(ServiceError::new(
            ErrorCode::Internal,
            "these batches cannot be had again",
        )))
    }
}
