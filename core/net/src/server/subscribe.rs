//! A subscription: the service's events out, as fast as flow control lets them, until the client
//! has enough or the service gives up.

use std::sync::Arc;
use std::time::Duration;

use millstream_service::{
    OpenSubscription, Service, ServiceError, Subscription, SubscriptionEvent,
};
use millstream_types::ErrorCode;
use millstream_wire::api::{FrameBody, Reply};
use quinn::WriteError;

use super::delivery::{Undelivered, deliver};
use super::streams::Stream;
use crate::close_code;
use crate::counters::add;
use crate::frames::send_bytes;

/// How long a stopping server lets a client take what it was being sent. One that reads needs less;
/// one that does not must not hold up everybody's end.
const STOP_LINGER: Duration = Duration::from_secs(2);

/// Why a subscription ends.
enum Ended {
    /// The client has enough, or is gone.
    Stopped,
    /// It is told why with an End frame.
    Refused(ServiceError),
    /// The server stops.
    ShuttingDown,
    /// In the middle of a frame, where nothing else can be said.
    Broken,
    /// Others have waited too long for what the transport keeps until the client acknowledges it.
    Overstayed,
}

impl From<WriteError> for Ended {
    fn from(_: WriteError) -> Self {
        Self::Stopped
    }
}

/// Serves a subscription to its end.
pub(crate) async fn serve<S: Service>(mut stream: Stream<S>, open: OpenSubscription) {
    let context = stream.context(open.trace, None);
    let stopped = stream.send.stopped();
    let opened = tokio::select! {
        opened = stream.client.shared.service.subscribe(context, open) => opened,
        _ = stopped => return,
    };
    let (reply, subscription) = match opened {
        Ok((opened, subscription)) => (Ok(opened), Some(subscription)),
        Err(error) => (Err(error), None),
    };
    let Ok(frame) = Reply(reply).to_frame() else { return };
    let Some(subscription) = subscription else { return stream.send_last(frame).await };
    let counters = Arc::clone(stream.counters());
    if send_bytes(&mut stream.send, &counters, frame).await.is_err() {
        return;
    }
    match pump(&mut stream, subscription).await {
        Ended::Stopped => {}
        Ended::Refused(error) => stream.end(error).await,
        Ended::ShuttingDown => {
            let message = "the broker is shutting down";
            let end = stream.end(ServiceError::new(ErrorCode::Unavailable, message));
            if tokio::time::timeout(STOP_LINGER, end).await.is_err() {
                stream.abandon(close_code::SHUTTING_DOWN);
            }
        }
        Ended::Broken => stream.abandon(close_code::SHUTTING_DOWN),
        Ended::Overstayed => {
            add(&counters.overstayed, 1);
            stream.abandon(close_code::TOO_SLOW);
        }
    }
}

/// Sends events until something ends the subscription. A write that flow control holds up ends
/// with the client's stop as well: the transport wakes it.
async fn pump<S: Service>(stream: &mut Stream<S>, mut subscription: S::Subscription) -> Ended {
    let mut stop = stream.client.shared.stop.clone();
    let stopped = stream.send.stopped();
    let overstayed = subscription.overstayed();
    tokio::pin!(stopped, overstayed);
    loop {
        let event = tokio::select! {
            biased;
            _ = &mut stopped => return Ended::Stopped,
            _ = stop.wait_for(Option::is_some) => return Ended::ShuttingDown,
            () = &mut overstayed => return Ended::Overstayed,
            event = subscription.next() => event,
        };
        let sent = tokio::select! {
            biased;
            sent = send_event(stream, &mut subscription, event) => sent,
            () = &mut overstayed => Err(Ended::Overstayed),
            () = async {
                // A server that is gone without a word has dropped its sender: the same.
                drop(stop.wait_for(Option::is_some).await);
                tokio::time::sleep(STOP_LINGER).await;
            } => Err(Ended::Broken),
        };
        if let Err(ended) = sent {
            return ended;
        }
    }
}

async fn send_event<S: Service>(
    stream: &mut Stream<S>,
    subscription: &mut S::Subscription,
    event: Result<SubscriptionEvent, ServiceError>,
) -> Result<(), Ended> {
    let counters = Arc::clone(stream.counters());
    match event.map_err(Ended::Refused)? {
        SubscriptionEvent::Batches { batches, high_watermark } => {
            let send = &mut stream.send;
            let delivered = deliver(send, &counters, subscription, batches, high_watermark).await;
            delivered.map_err(|why| match why {
                Undelivered::Stopped => Ended::Stopped,
                Undelivered::Refused(error) => Ended::Refused(error),
                Undelivered::Broken(error) => {
                    tracing::warn!(%error, "a subscription ends in the middle of a frame");
                    Ended::Broken
                }
            })
        }
        SubscriptionEvent::Progress(progress) => {
            // Two integers always fit.
            if let Ok(frame) = progress.to_frame() {
                send_bytes(&mut stream.send, &counters, frame).await?;
            }
            Ok(())
        }
    }
}
