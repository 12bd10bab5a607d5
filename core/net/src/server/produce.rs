//! A produce session: batches in, acknowledgements out, both in order, on one stream.
//!
//! One task does both: it takes batches while fewer than the bound are in flight, and writes all
//! acknowledgements that are ready as one piece. When the client does not read acknowledgements,
//! or storage falls behind, it stops reading, and QUIC's flow control holds the client back.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use millstream_service::{OpenProduce, ProduceAck, ProduceSession, Service, ServiceError};
use millstream_types::ErrorCode;
use millstream_types::limits::PRODUCE_IN_FLIGHT_MAX;
use millstream_wire::api::{FrameBody, Reply};
use millstream_wire::frame::FrameKind;
use quinn::WriteError;

use super::connection::finish;
use super::streams::{Stream, unreadable};
use crate::counters::add;
use crate::frames::{Frame, ReadFrameError, send_bytes};
use crate::memory::Held;

/// Acknowledgements are written once so many bytes of them are ready, even if more are.
const ACK_WRITE_BYTES: usize = 16 * 1024;

/// Batches whose acknowledgement is not written yet, oldest first.
struct InFlight<A> {
    acks: VecDeque<(Pin<Box<A>>, Option<Held>)>,
    /// Acknowledgements that are ready, as frames.
    ready: BytesMut,
}

impl<A: Future<Output = Result<ProduceAck, ServiceError>>> InFlight<A> {
    /// Moves finished acknowledgements from the front to `ready`, until one is not finished.
    /// Cancel-safe: what was moved stays in `ready`.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.ready.len() < ACK_WRITE_BYTES {
            let Some((ack, _)) = self.acks.front_mut() else { break };
            let Poll::Ready(ack) = ack.as_mut().poll(context) else { break };
            self.acks.pop_front();
            write_ack(&mut self.ready, ack);
        }
        if self.ready.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// Appends an acknowledgement's frame. Its fields are cut to fit, so that the second attempt is for
/// defects of the codec alone; a client must get an answer for each batch even then.
fn write_ack(ready: &mut BytesMut, ack: Result<ProduceAck, ServiceError>) {
    if let Err(error) = Reply(ack).append_frame(ready) {
        tracing::error!(%error, "an acknowledgement does not fit its frame");
        let error = ServiceError::new(ErrorCode::Internal, "unwritable acknowledgement");
        if let Err(error) = Reply::<ProduceAck>(Err(error)).append_frame(ready) {
            tracing::error!(%error, "nor does its replacement");
        }
    }
}

/// Why no more batches are read.
enum Ended {
    /// The client has sent its last batch.
    Finished,
    /// It is told why with an End frame.
    Refused(ServiceError),
    /// It is gone.
    Lost,
}

/// Serves a produce session to its end.
pub(crate) async fn serve<S: Service>(mut stream: Stream<S>, open: OpenProduce) {
    let context = stream.context(open.trace, None);
    let stopped = stream.send.stopped();
    let opened = tokio::select! {
        opened = stream.client.shared.service.open_produce(context, open) => opened,
        _ = stopped => return,
    };
    let (reply, session) = match opened {
        Ok((opened, session)) => (Ok(opened), Some(session)),
        Err(error) => (Err(error), None),
    };
    let Ok(frame) = Reply(reply).to_frame() else { return };
    let Some(session) = session else { return stream.send_last(frame).await };
    let counters = Arc::clone(stream.counters());
    if send_bytes(&mut stream.send, &counters, frame).await.is_err() {
        return;
    }
    match pump(&mut stream, session).await {
        Ok(Ended::Finished) => finish(&mut stream.send, true).await,
        Ok(Ended::Refused(error)) => stream.end(error).await,
        Ok(Ended::Lost) => {}
        Err(error) => tracing::debug!(%error, "a produce stream was lost"),
    }
}

/// Reads batches and writes acknowledgements until no more batches come and all are answered.
async fn pump<S: Service>(
    stream: &mut Stream<S>,
    mut session: S::Produce,
) -> Result<Ended, WriteError> {
    stream.reader.accept(&[FrameKind::Produce]);
    let counters = Arc::clone(stream.counters());
    let mut stop = stream.client.shared.stop.clone();
    let mut in_flight = InFlight { acks: VecDeque::new(), ready: BytesMut::new() };
    let mut ended = None;
    // With no room for batches the stream is not read, and this alone tells that the client left.
    let stopped = stream.send.stopped();
    tokio::pin!(stopped);
    loop {
        if !in_flight.ready.is_empty() {
            // Consumers at the tail were woken by what makes these ready: the records go out
            // before the news that they are stored, and more news may join.
            tokio::task::yield_now().await;
            let ready = in_flight.ready.split().freeze();
            send_bytes(&mut stream.send, &counters, ready).await?;
        }
        if let Some(ended) = ended.take_if(|_| in_flight.acks.is_empty()) {
            return Ok(ended);
        }
        let room = in_flight.acks.len() < PRODUCE_IN_FLIGHT_MAX;
        let mut next = None;
        tokio::select! {
            biased;
            () = std::future::poll_fn(|context| in_flight.poll_ready(context)),
                if !in_flight.acks.is_empty() => {}
            _ = &mut stopped => return Ok(Ended::Lost),
            _ = stop.wait_for(Option::is_some), if ended.is_none() => {
                let message = "the broker is shutting down";
                ended = Some(Ended::Refused(ServiceError::new(ErrorCode::Unavailable, message)));
            }
            frame = stream.reader.next(), if ended.is_none() && room => match batch(frame) {
                Ok(frame) => next = Some(frame),
                Err(Ended::Lost) => return Ok(Ended::Lost),
                Err(why) => {
                    if matches!(why, Ended::Refused(_)) {
                        add(&counters.protocol_errors, 1);
                    }
                    ended = Some(why);
                }
            },
        }
        if let Some(Frame { body, held, .. }) = next {
            let ack = session.append(body).await;
            in_flight.acks.push_back((Box::pin(ack), held));
        }
    }
}

/// The batch that was read, or why there is none.
fn batch(read: Result<Option<Frame>, ReadFrameError>) -> Result<Frame, Ended> {
    match read {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(Ended::Finished),
        Err(error) => Err(unreadable(&error).map_or(Ended::Lost, Ended::Refused)),
    }
}
