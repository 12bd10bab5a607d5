//! A subscription: the service's events out, as fast as flow control lets them, until the client
//! has enough or the service gives up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_service::{
    OpenSubscription, Service, ServiceError, Subscription, SubscriptionEvent,
};
use millstream_types::limits::FRAME_BODY_BYTES_MAX;
use millstream_types::{ErrorCode, Offset};
use millstream_wire::api::{FrameBody, Reply, batches_prefix};
use millstream_wire::frame::{BATCHES_PREFIX_BYTES, FrameHeader, FrameKind};
use quinn::WriteError;

use super::streams::Stream;
use crate::frames::{send_bytes, send_pieces};

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
                stream.abandon();
            }
        }
    }
}

/// Sends events until something ends the subscription. A write that flow control holds up ends
/// with the client's stop as well: the transport wakes it.
async fn pump<S: Service>(stream: &mut Stream<S>, mut subscription: S::Subscription) -> Ended {
    let mut stop = stream.client.shared.stop.clone();
    let stopped = stream.send.stopped();
    tokio::pin!(stopped);
    loop {
        let event = tokio::select! {
            biased;
            _ = &mut stopped => return Ended::Stopped,
            _ = stop.wait_for(Option::is_some) => return Ended::ShuttingDown,
            event = subscription.next() => event,
        };
        let sent = tokio::select! {
            biased;
            sent = send_event(stream, event) => Some(sent),
            () = async {
                // A server that is gone without a word has dropped its sender: the same.
                drop(stop.wait_for(Option::is_some).await);
                tokio::time::sleep(STOP_LINGER).await;
            } => None,
        };
        match sent {
            Some(Ok(())) => {}
            Some(Err(ended)) => return ended,
            None => {
                // In the middle of a frame, nothing else can be said on this stream.
                stream.abandon();
                return Ended::Stopped;
            }
        }
    }
}

async fn send_event<S: Service>(
    stream: &mut Stream<S>,
    event: Result<SubscriptionEvent, ServiceError>,
) -> Result<(), Ended> {
    match event.map_err(Ended::Refused)? {
        SubscriptionEvent::Batches { batches, high_watermark } => {
            for frame in split(&batches) {
                send_batches(stream, frame, high_watermark).await?;
            }
        }
        SubscriptionEvent::Progress(progress) => {
            let counters = Arc::clone(stream.counters());
            // Two integers always fit.
            if let Ok(frame) = progress.to_frame() {
                send_bytes(&mut stream.send, &counters, frame).await?;
            }
        }
    }
    Ok(())
}

async fn send_batches<S: Service>(
    stream: &mut Stream<S>,
    batches: &[Bytes],
    high_watermark: Offset,
) -> Result<(), Ended> {
    let body_bytes = BATCHES_PREFIX_BYTES + batches.iter().map(Bytes::len).sum::<usize>();
    let header = FrameHeader::encode(FrameKind::Batches, body_bytes).map_err(|error| {
        tracing::error!(%error, "the service delivered more than a frame can carry");
        Ended::Refused(ServiceError::new(ErrorCode::Internal, error.to_string()))
    })?;
    let counters = Arc::clone(stream.counters());
    let prefix = batches_prefix(high_watermark);
    send_pieces(&mut stream.send, &counters, header, &prefix, batches).await?;
    Ok(())
}

/// Cuts pieces into runs that each fit a frame. Pieces hold whole batches, so that any cut between
/// two of them is sound.
fn split(mut batches: &[Bytes]) -> Vec<&[Bytes]> {
    let mut frames = Vec::with_capacity(1);
    while !batches.is_empty() {
        let mut bytes = BATCHES_PREFIX_BYTES;
        let mut count = 0;
        for batch in batches {
            bytes += batch.len();
            if count > 0 && bytes > FRAME_BODY_BYTES_MAX {
                break;
            }
            count += 1;
        }
        let (frame, rest) = batches.split_at(count);
        frames.push(frame);
        batches = rest;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_into_frames_without_losing_any() {
        let large = Bytes::from(vec![0; FRAME_BODY_BYTES_MAX - BATCHES_PREFIX_BYTES - 10]);
        let small = Bytes::from_static(b"0123456789");
        let pieces = [small.clone(), large.clone(), small.clone(), small, large];
        let lengths: Vec<usize> = split(&pieces).iter().map(|frame| frame.len()).collect();
        assert_eq!(lengths, [2, 2, 1]);
        assert!(split(&[]).is_empty());
    }
}
