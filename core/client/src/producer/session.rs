//! What is decided about one partition's batches between queue and acknowledgement: order,
//! sequences, retries, timeouts. No I/O and no clock: events go in, [`Step`]s and settled batches
//! come out.
//!
//! Three rules keep order and exclude duplicates while a producer is idempotent:
//!
//! 1. Batches are sent in order. When a stream is lost or refuses, all that is unacknowledged is
//!    sent again from the first, with the same id, epoch and sequences; the broker recognises
//!    what it already has.
//! 2. A batch whose fate is unknown (it was sent, and the stream ended before its
//!    acknowledgement) is never sent under another identity. If it cannot be sent under its own
//!    any more, it fails as unknown.
//! 3. When a batch fails, those behind it have a gap before them. They go on under a renewed
//!    epoch with sequences from 0, which fences whatever of the old epoch is still on its way.
//!
//! Invariant: the sent and possibly written batches are a prefix of `in_flight`, in order:
//! `sent <= in_flight.len()`, and no batch that may be written stands behind one that was never
//! sent.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use millstream_types::{ErrorCode, ProducerEpoch};
use millstream_wire::api::{ProduceAck, ProducerIdentity, ServiceError};
use millstream_wire::{BatchBuilder, ProducerStamp, restamp};

use super::delivery::{Appended, BatchState, Outcome};
use super::queue::{Monotonic, QueuedBatch};
use crate::error::DeliveryError;
use crate::random::{Backoff, Random};

/// What a session decides by.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionSettings {
    pub(super) partition: u32,
    pub(super) idempotent: bool,
    pub(super) max_in_flight: usize,
    pub(super) delivery_timeout: Monotonic,
    pub(super) backoff: Backoff,
}

/// What is to be done next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Ask for a new identity, or for the next epoch of this one.
    Init(Option<ProducerIdentity>),
    /// Open a stream to the leader.
    Open(Option<ProducerIdentity>),
    /// Send these bytes on the stream.
    Send(Bytes),
    /// There is room: take a batch from the queue and [`push`](Session::push) it.
    Pull,
    /// Nothing before the [`deadline`](Session::deadline), unless something happens.
    Wait,
}

/// A batch's fate is settled; its bytes of the buffer are free.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) state: Arc<BatchState>,
    pub(super) records: u32,
    pub(super) reserved: usize,
    pub(super) outcome: Outcome,
}

/// Why a stream or an identity could not be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// A broker refused.
    Refused(ServiceError),
    /// No broker answered.
    Unreachable(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    /// No stream, and none tried before this time.
    Down { retry_at: Monotonic },
    /// A stream is open.
    Up,
}

#[derive(Debug)]
struct InFlight {
    bytes: Bytes,
    state: Arc<BatchState>,
    records: u32,
    reserved: usize,
    deadline: Monotonic,
    /// It was sent on a stream that ended before its acknowledgement.
    may_be_written: bool,
}

/// One partition's state machine.
#[derive(Debug)]
pub(super) struct Session {
    settings: SessionSettings,
    link: Link,
    identity: Option<ProducerIdentity>,
    /// The identity must be renewed before anything more is sent.
    stale: bool,
    /// Nothing can be sent any more.
    fenced: bool,
    next_sequence: i32,
    in_flight: VecDeque<InFlight>,
    /// How many of `in_flight` were sent on the present stream.
    sent: usize,
    /// The most that may be in flight: as set, or less where the broker takes less.
    in_flight_max: usize,
    /// The broker asked to send nothing before this time.
    paused_until: Monotonic,
    /// Failures since the last success.
    attempt: u32,
    last_error: Arc<str>,
    settled: Vec<Settled>,
    /// Nothing of the queue can be sent: a broker refused in a way that a retry does not mend.
    refusal: Option<DeliveryError>,
}

impl Session {
    pub(super) fn new(settings: SessionSettings) -> Self {
        Self {
            settings,
            link: Link::Down { retry_at: Monotonic::ZERO },
            identity: None,
            stale: false,
            fenced: false,
            next_sequence: 0,
            in_flight: VecDeque::with_capacity(settings.max_in_flight),
            sent: 0,
            in_flight_max: settings.max_in_flight,
            paused_until: Monotonic::ZERO,
            attempt: 0,
            last_error: Arc::from("no attempt was made yet"),
            settled: Vec::new(),
            refusal: None,
        }
    }

    /// What to do next; `queued` says whether the queue has a batch.
    pub(super) fn next(&mut self, now: Monotonic, queued: bool) -> Step {
        if self.fenced {
            // Whatever is queued fails as it is pushed.
            return Step::Pull;
        }
        match self.link {
            Link::Up => {
                if now < self.paused_until {
                    return Step::Wait;
                }
                self.paused_until = Monotonic::ZERO;
                if let Some(batch) = self.in_flight.get(self.sent) {
                    self.sent += 1;
                    return Step::Send(batch.bytes.clone());
                }
                if self.in_flight.len() < self.in_flight_max {
                    return Step::Pull;
                }
                Step::Wait
            }
            Link::Down { retry_at } => {
                let wanted = queued || !self.in_flight.is_empty();
                if !wanted || now < retry_at {
                    return Step::Wait;
                }
                if self.settings.idempotent && (self.stale || self.identity.is_none()) {
                    return Step::Init(self.identity);
                }
                Step::Open(self.identity)
            }
        }
    }

    /// When [`next`](Self::next) or [`expire`](Self::expire) must be asked again at the latest.
    pub(super) fn deadline(&self, queued: bool) -> Option<Monotonic> {
        let expiry = self.expiry();
        let retry = match self.link {
            Link::Down { retry_at } => Some(retry_at),
            Link::Up if self.paused_until > Monotonic::ZERO => Some(self.paused_until),
            Link::Up => None,
        };
        let retry = retry.filter(|_| queued || expiry.is_some());
        match (expiry, retry) {
            (Some(expiry), Some(retry)) => Some(expiry.min(retry)),
            (one, other) => one.or(other),
        }
    }

    /// When the first batch in flight will have taken too long.
    pub(super) fn expiry(&self) -> Option<Monotonic> {
        self.in_flight.front().map(|batch| batch.deadline)
    }

    /// Whether a stream is open. Once false, the stream that was is of no use.
    pub(super) fn is_up(&self) -> bool {
        self.link == Link::Up
    }

    /// Whether batches await acknowledgement.
    pub(super) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Batches settled since the last call.
    pub(super) fn take_settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.settled)
    }

    /// Why everything in the queue is to fail now, if it is.
    pub(super) fn take_refusal(&mut self) -> Option<DeliveryError> {
        self.refusal.take()
    }

    /// What stood in the way last, for errors.
    pub(super) fn last_error(&self) -> Arc<str> {
        Arc::clone(&self.last_error)
    }

    /// A batch from the queue, after [`Step::Pull`]. It is encoded here, with the next sequence.
    pub(super) fn push(&mut self, batch: QueuedBatch) {
        let QueuedBatch { builder, state, opened_at, reserved } = batch;
        let records = builder.record_count();
        if self.fenced {
            self.settled.push(Settled {
                state,
                records,
                reserved,
                outcome: Err(DeliveryError::Fenced),
            });
            return;
        }
        match encode(builder, self.stamp()) {
            Ok(bytes) => {
                self.advance(records);
                let deadline = opened_at.saturating_add(self.settings.delivery_timeout);
                let may_be_written = false;
                self.in_flight.push_back(InFlight {
                    bytes,
                    state,
                    records,
                    reserved,
                    deadline,
                    may_be_written,
                });
            }
            // No sequence was used: the next batch follows without a gap.
            Err(error) => {
                self.settled.push(Settled { state, records, reserved, outcome: Err(error) });
            }
        }
    }

    /// An identity came, after [`Step::Init`].
    pub(super) fn on_identity(&mut self, identity: ProducerIdentity) {
        self.identity = Some(identity);
        self.stale = false;
        self.next_sequence = 0;
        for mut batch in std::mem::take(&mut self.in_flight) {
            debug_assert!(!batch.may_be_written, "an unknown fate is never restamped");
            match restamp(batch.bytes, self.stamp()) {
                Ok(bytes) => {
                    batch.bytes = bytes;
                    self.advance(batch.records);
                    self.in_flight.push_back(batch);
                }
                Err(error) => {
                    let reason = Arc::from(error.to_string());
                    self.settled.push(Settled {
                        state: batch.state,
                        records: batch.records,
                        reserved: batch.reserved,
                        outcome: Err(DeliveryError::Encoding { reason }),
                    });
                }
            }
        }
    }

    /// The stream is open, after [`Step::Open`], for so many batches in flight.
    pub(super) fn on_opened(&mut self, in_flight_max: usize) {
        self.in_flight_max = self.settings.max_in_flight.min(in_flight_max).max(1);
        self.link = Link::Up;
        self.sent = 0;
    }

    /// [`Step::Init`] failed.
    pub(super) fn on_init_failed(&mut self, now: Monotonic, failure: Failure, random: &Random) {
        let Some(error) = self.retry_unless_final(now, failure, random) else { return };
        if self.identity.take().is_some() {
            // An earlier renewal was made and its answer lost, or the id was forgotten. A new id
            // serves as well: nothing in flight may be written under the old one.
            debug_assert!(!self.in_flight.iter().any(|batch| batch.may_be_written));
            return self.go_down(now, error.throttle_ms, random);
        }
        let message = Arc::from(error.message);
        self.fail_all(&DeliveryError::Rejected { code: error.code, message });
    }

    /// [`Step::Open`] failed.
    pub(super) fn on_open_failed(&mut self, now: Monotonic, failure: Failure, random: &Random) {
        let Some(error) = self.retry_unless_final(now, failure, random) else { return };
        match error.code {
            ErrorCode::FencedProducer => {
                self.fenced = true;
                self.fail_all(&DeliveryError::Fenced);
            }
            ErrorCode::UnknownProducer if self.identity.is_some() => {
                self.fail_uncertain("the broker no longer knows this producer");
                self.identity = None;
                self.go_down(now, error.throttle_ms, random);
            }
            code => {
                let message = Arc::from(error.message);
                self.fail_all(&DeliveryError::Rejected { code, message });
            }
        }
    }

    /// Arranges a retry; gives the error back when no retry will mend it.
    fn retry_unless_final(
        &mut self,
        now: Monotonic,
        failure: Failure,
        random: &Random,
    ) -> Option<ServiceError> {
        let error = match failure {
            Failure::Unreachable(reason) => {
                self.last_error = Arc::from(reason);
                self.go_down(now, 0, random);
                return None;
            }
            Failure::Refused(error) => error,
        };
        self.last_error = Arc::from(error.to_string());
        if error.is_retriable() {
            self.go_down(now, error.throttle_ms, random);
            return None;
        }
        Some(error)
    }

    /// The stream ended without a word about the batches on it.
    pub(super) fn on_stream_lost(&mut self, now: Monotonic, reason: &str, random: &Random) {
        if self.link != Link::Up {
            return;
        }
        self.last_error = Arc::from(reason);
        self.go_down(now, 0, random);
    }

    /// The first unacknowledged batch is stored.
    pub(super) fn on_ack(&mut self, now: Monotonic, ack: ProduceAck, random: &Random) {
        if self.link != Link::Up {
            return;
        }
        if self.sent == 0 {
            return self.on_stream_lost(now, "an acknowledgement of nothing", random);
        }
        let append_time = (ack.append_time.0 >= 0).then_some(ack.append_time);
        self.settle_front(Ok(Appended { base_offset: ack.base_offset, append_time }));
        self.attempt = 0;
        if ack.throttle_ms > 0 {
            self.paused_until = now + Monotonic::from_millis(ack.throttle_ms.into());
        }
    }

    /// The first unacknowledged batch is refused. The stream is of no more use, except to a
    /// producer that is not idempotent and whose batch no retry will mend.
    pub(super) fn on_refused(&mut self, now: Monotonic, error: ServiceError, random: &Random) {
        if self.link != Link::Up {
            return;
        }
        self.last_error = Arc::from(error.to_string());
        if self.sent == 0 || error.is_retriable() {
            // It may still have been appended, as when too few replicas are in sync after it.
            return self.go_down(now, error.throttle_ms, random);
        }
        if !self.settings.idempotent {
            // The others are independent of it; their answers follow on the stream.
            return self.settle_front(Err(self.rejection(&error, false)));
        }
        // Those behind the refused batch follow it in sequence, so that the broker has not
        // appended them, unless it has the refused one from an earlier stream.
        let uncertain = self.in_flight.front().is_some_and(|batch| batch.may_be_written);
        if uncertain {
            self.doubt_sent();
        }
        self.sent = 0;
        match error.code {
            ErrorCode::FencedProducer => {
                self.fenced = true;
                return self.fail_all(&DeliveryError::Fenced);
            }
            // The broker forgot the producer: nothing that was certain is lost, and what was
            // never written may be sent under a new epoch.
            ErrorCode::UnknownProducer if !uncertain => {}
            _ => self.settle_front(Err(self.rejection(&error, uncertain))),
        }
        self.fail_uncertain("a batch before it was refused, and resending could write it twice");
        self.stale = true;
        self.go_down(now, error.throttle_ms, random);
    }

    /// Fails batches whose time has passed, and those whose fate hangs on them.
    pub(super) fn expire(&mut self, now: Monotonic) {
        if self.in_flight.front().is_none_or(|batch| batch.deadline > now) {
            return;
        }
        self.doubt_sent();
        if self.link == Link::Up {
            // It may still deliver what is given up here: it must not be used further.
            self.link = Link::Down { retry_at: now };
        }
        let reason = "the delivery timeout passed before it, or a batch that it follows, was \
                      acknowledged";
        while let Some(front) = self.in_flight.front()
            && front.deadline <= now
        {
            let outcome = if front.may_be_written {
                let reason = format!("{reason} ({})", self.last_error);
                Err(DeliveryError::Unknown { reason: Arc::from(reason) })
            } else {
                Err(DeliveryError::Expired { last_error: self.last_error() })
            };
            self.settle_front(outcome);
        }
        if self.settings.idempotent {
            // Their sequences follow one that the broker may never see.
            self.fail_uncertain(reason);
            self.stale = true;
        }
    }

    /// The topic is another one than the batches were made for, under the same name.
    pub(super) fn on_topic_replaced(&mut self) {
        let code = ErrorCode::UnknownTopic;
        let message = Arc::from("the topic was deleted and created again");
        self.fail_in_flight(&DeliveryError::Rejected { code, message });
        // The new topic has never heard of this producer: sequences start at 0.
        self.stale = self.identity.is_some();
    }

    /// The stream was idle for long and is closed. Does nothing while batches are in flight.
    pub(super) fn on_idle(&mut self) {
        if self.in_flight.is_empty() {
            self.link = Link::Down { retry_at: Monotonic::ZERO };
        }
    }

    /// Gives up whatever is in flight: the sender ends.
    pub(super) fn abandon(&mut self) {
        while !self.in_flight.is_empty() {
            self.settle_front(Err(DeliveryError::Abandoned));
        }
    }

    /// The error for a refused front batch.
    fn rejection(&self, error: &ServiceError, uncertain: bool) -> DeliveryError {
        if uncertain {
            let reason = format!("an earlier attempt was not acknowledged, a later one: {error}");
            return DeliveryError::Unknown { reason: Arc::from(reason) };
        }
        let message: Arc<str> = Arc::from(error.message.as_str());
        match error.code {
            ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer => {
                DeliveryError::OutOfOrderSequence { partition: self.settings.partition, message }
            }
            ErrorCode::FencedProducer => DeliveryError::Fenced,
            code => DeliveryError::Rejected { code, message },
        }
    }

    /// Drops the stream; what was sent on it is in doubt.
    fn go_down(&mut self, now: Monotonic, throttle_ms: u32, random: &Random) {
        self.doubt_sent();
        let backoff = self.settings.backoff.delay(self.attempt, random);
        let wait = backoff.max(Monotonic::from_millis(throttle_ms.into()));
        self.attempt = self.attempt.saturating_add(1);
        self.link = Link::Down { retry_at: now.saturating_add(wait) };
    }

    /// What was sent on the present stream is in doubt from here on.
    fn doubt_sent(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        for batch in self.in_flight.iter_mut().take(sent) {
            batch.may_be_written = true;
        }
    }

    /// Fails the batches of unknown fate, which are first in line.
    fn fail_uncertain(&mut self, reason: &str) {
        while self.in_flight.front().is_some_and(|batch| batch.may_be_written) {
            self.settle_front(Err(DeliveryError::Unknown { reason: Arc::from(reason) }));
        }
    }

    /// Fails everything in flight, and has the queue failed.
    fn fail_all(&mut self, error: &DeliveryError) {
        self.fail_in_flight(error);
        self.link = Link::Down { retry_at: Monotonic::ZERO };
        self.refusal = Some(error.clone());
    }

    fn fail_in_flight(&mut self, error: &DeliveryError) {
        // Their sequences are used up: what comes next starts anew.
        self.stale |= self.identity.is_some() && !self.in_flight.is_empty();
        self.fail_uncertain(&error.to_string());
        while !self.in_flight.is_empty() {
            self.settle_front(Err(error.clone()));
        }
    }

    fn settle_front(&mut self, outcome: Outcome) {
        if let Some(batch) = self.in_flight.pop_front() {
            self.sent = self.sent.saturating_sub(1);
            self.settled.push(Settled {
                state: batch.state,
                records: batch.records,
                reserved: batch.reserved,
                outcome,
            });
        }
    }

    /// The stamp of the next batch.
    fn stamp(&self) -> ProducerStamp {
        match self.identity {
            Some(ProducerIdentity { id, epoch: ProducerEpoch(epoch) })
                if self.settings.idempotent =>
            {
                let epoch = ProducerEpoch(epoch);
                ProducerStamp { id, epoch, base_sequence: self.next_sequence }
            }
            _ => ProducerStamp::NONE,
        }
    }

    /// Counts sequences: after `i32::MAX` comes 0, as in Kafka.
    fn advance(&mut self, records: u32) {
        let next = self.next_sequence.cast_unsigned().wrapping_add(records);
        self.next_sequence = (next & i32::MAX.cast_unsigned()).cast_signed();
    }
}

fn encode(builder: BatchBuilder, stamp: ProducerStamp) -> Result<Bytes, DeliveryError> {
    builder
        .build(stamp)
        .map_err(|error| DeliveryError::Encoding { reason: Arc::from(error.to_string()) })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
