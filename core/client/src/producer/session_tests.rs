//! A session against a model broker that dedups as the real one does, and faults from a seed.

use std::time::Duration;

use millstream_types::{Offset, ProducerId, TimestampMs};
use millstream_wire::{Batch, Codec};

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn settings(idempotent: bool) -> SessionSettings {
    SessionSettings {
        partition: 2,
        idempotent,
        max_in_flight: 5,
        delivery_timeout: 10 * SECOND,
        backoff: Backoff { first: 10 * MS, max: 100 * MS },
    }
}

/// A batch of one record whose value is `number`.
fn queued(number: u32, opened_at: Monotonic) -> QueuedBatch {
    let mut builder = BatchBuilder::new(Codec::None, 64);
    builder.append(TimestampMs(0), None, Some(&number.to_be_bytes()), &[]).unwrap();
    QueuedBatch { builder, state: BatchState::new(2), opened_at, reserved: 10 }
}

fn identity(id: i64, epoch: i16) -> ProducerIdentity {
    ProducerIdentity { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

fn number(batch: &Bytes) -> u32 {
    let batch = Batch::validate(batch.clone()).unwrap();
    let record = batch.records().unwrap().next().unwrap().unwrap();
    u32::from_be_bytes(record.value.unwrap()[..].try_into().unwrap())
}

fn stamp(batch: &Bytes) -> (i64, i16, i32) {
    let header = *Batch::validate(batch.clone()).unwrap().header();
    (header.producer_id.0, header.producer_epoch.0, header.base_sequence)
}

fn ack(offset: i64) -> ProduceAck {
    let base_offset = Offset::new(offset).unwrap();
    ProduceAck { base_offset, append_time: TimestampMs::NONE, throttle_ms: 0 }
}

fn refused(code: ErrorCode) -> ServiceError {
    ServiceError::new(code, "model")
}

/// A session with `batches` pushed and sent on an open stream, at time 0.
fn sent(idempotent: bool, batches: u32) -> (Session, Random, Vec<Bytes>) {
    let random = Random::from_seed(1);
    let mut session = Session::new(settings(idempotent));
    if idempotent {
        assert_eq!(session.next(Monotonic::ZERO, true), Step::Init(None));
        session.on_identity(identity(7, 0));
    }
    assert!(matches!(session.next(Monotonic::ZERO, true), Step::Open(_)));
    session.on_opened(256);
    let mut bytes = Vec::new();
    for batch in 0..batches {
        assert_eq!(session.next(Monotonic::ZERO, true), Step::Pull);
        session.push(queued(batch, Monotonic::ZERO));
        let Step::Send(sent) = session.next(Monotonic::ZERO, true) else { panic!("not sent") };
        bytes.push(sent);
    }
    (session, random, bytes)
}

fn outcomes(session: &mut Session) -> Vec<Outcome> {
    session.take_settled().into_iter().map(|settled| settled.outcome).collect()
}

/// All that the session sends now, after whatever it has to wait for and ask for.
fn resend(session: &mut Session, renewed: Option<ProducerIdentity>) -> Vec<Bytes> {
    let mut now = 5 * SECOND;
    let mut bytes = Vec::new();
    loop {
        match session.next(now, false) {
            Step::Init(_) => session.on_identity(renewed.expect("no renewal was expected")),
            Step::Open(_) => session.on_opened(256),
            Step::Send(sent) => bytes.push(sent),
            Step::Pull => return bytes,
            Step::Wait => now = session.deadline(false).expect("nothing to wait for"),
        }
    }
}

#[test]
fn batches_are_numbered_from_0_and_no_more_than_the_bound_are_in_flight() {
    let (mut session, _, bytes) = sent(true, 5);
    let stamps: Vec<_> = bytes.iter().map(stamp).collect();
    assert_eq!(stamps, [(7, 0, 0), (7, 0, 1), (7, 0, 2), (7, 0, 3), (7, 0, 4)]);
    assert_eq!(session.next(MS, true), Step::Wait);
    assert_eq!(session.deadline(true), Some(10 * SECOND));
}

#[test]
fn a_lost_stream_is_opened_anew_and_everything_unacknowledged_goes_again_unchanged() {
    let (mut session, random, bytes) = sent(true, 4);
    session.on_ack(MS, ack(100), &random);
    session.on_stream_lost(MS, "gone", &random);
    assert!(!session.is_up());
    assert_eq!(session.next(MS, true), Step::Wait, "not before the backoff");
    assert_eq!(resend(&mut session, None), bytes[1..]);
    for offset in 101..104 {
        session.on_ack(SECOND, ack(offset), &random);
    }
    let offsets: Vec<_> = outcomes(&mut session)
        .into_iter()
        .map(|outcome| outcome.unwrap().base_offset.value())
        .collect();
    assert_eq!(offsets, [100, 101, 102, 103]);
}

#[test]
fn a_retriable_refusal_keeps_the_order_and_waits_as_the_broker_asks() {
    let (mut session, random, bytes) = sent(true, 3);
    let error = ServiceError { throttle_ms: 700, ..refused(ErrorCode::NotLeader) };
    session.on_refused(MS, error, &random);
    assert_eq!(session.deadline(true), Some(701 * MS));
    assert!(outcomes(&mut session).is_empty());
    assert_eq!(resend(&mut session, None), bytes);
}

#[test]
fn a_broker_that_throttles_is_given_time() {
    let (mut session, random, _) = sent(true, 2);
    session.on_ack(MS, ProduceAck { throttle_ms: 500, ..ack(0) }, &random);
    assert_eq!(session.next(400 * MS, true), Step::Wait);
    assert_eq!(session.deadline(true), Some(501 * MS));
    assert_eq!(session.next(501 * MS, true), Step::Pull);
}

#[test]
fn a_broker_that_takes_fewer_in_flight_gets_fewer() {
    let mut session = Session::new(settings(true));
    session.on_identity(identity(7, 0));
    session.on_opened(1);
    session.push(queued(0, MS));
    assert!(matches!(session.next(MS, true), Step::Send(_)));
    assert_eq!(session.next(MS, true), Step::Wait);
}

#[test]
fn a_refused_batch_fails_and_those_behind_it_go_on_under_a_new_epoch() {
    let (mut session, random, bytes) = sent(true, 3);
    session.on_refused(MS, refused(ErrorCode::BatchTooLarge), &random);
    let failed = outcomes(&mut session);
    assert!(matches!(
        &failed[..],
        [Err(DeliveryError::Rejected { code: ErrorCode::BatchTooLarge, .. })]
    ));
    let again = resend(&mut session, Some(identity(7, 1)));
    assert_eq!(again.iter().map(number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(again.iter().map(stamp).collect::<Vec<_>>(), [(7, 1, 0), (7, 1, 1)]);
    assert_ne!(again[0], bytes[1]);
}

#[test]
fn a_batch_of_unknown_fate_is_never_sent_under_another_epoch() {
    let (mut session, random, _) = sent(true, 3);
    session.on_stream_lost(MS, "gone", &random);
    assert_eq!(resend(&mut session, None).len(), 3);
    session.on_refused(SECOND, refused(ErrorCode::OutOfOrderSequence), &random);
    let failed = outcomes(&mut session);
    assert_eq!(failed.len(), 3);
    for outcome in failed {
        let error = outcome.unwrap_err();
        assert!(error.may_be_written() && !error.is_retriable(), "{error}");
    }
    session.push(queued(9, SECOND));
    let next = resend(&mut session, Some(identity(7, 1)));
    assert_eq!(next.iter().map(stamp).collect::<Vec<_>>(), [(7, 1, 0)]);
}

#[test]
fn a_forgotten_producer_goes_on_under_a_new_epoch_when_nothing_is_in_doubt() {
    let (mut session, random, _) = sent(true, 2);
    session.on_refused(MS, refused(ErrorCode::UnknownProducer), &random);
    assert!(outcomes(&mut session).is_empty());
    let again = resend(&mut session, Some(identity(7, 1)));
    assert_eq!(again.iter().map(stamp).collect::<Vec<_>>(), [(7, 1, 0), (7, 1, 1)]);
}

#[test]
fn a_fenced_producer_sends_nothing_more() {
    let (mut session, random, _) = sent(true, 2);
    session.on_refused(MS, refused(ErrorCode::FencedProducer), &random);
    assert_eq!(outcomes(&mut session), [Err(DeliveryError::Fenced), Err(DeliveryError::Fenced)]);
    assert_eq!(session.take_refusal(), Some(DeliveryError::Fenced));
    assert_eq!(session.next(SECOND, true), Step::Pull);
    session.push(queued(9, SECOND));
    assert_eq!(outcomes(&mut session), [Err(DeliveryError::Fenced)]);
}

#[test]
fn a_timeout_leaves_no_gap_in_the_sequences() {
    let (mut session, random, _) = sent(true, 2);
    session.on_stream_lost(MS, "gone", &random);
    session.expire(9 * SECOND);
    assert!(outcomes(&mut session).is_empty());
    session.expire(10 * SECOND);
    let failed = outcomes(&mut session);
    assert!(failed.len() == 2 && failed.iter().all(|o| o.as_ref().unwrap_err().may_be_written()));
    session.push(queued(5, 10 * SECOND));
    let next = resend(&mut session, Some(identity(7, 1)));
    assert_eq!(next.iter().map(stamp).collect::<Vec<_>>(), [(7, 1, 0)]);
}

#[test]
fn a_timeout_takes_along_what_was_sent_behind_it_and_nothing_else() {
    let (mut session, _, _) = sent(true, 1);
    session.push(queued(1, 5 * SECOND));
    assert!(matches!(session.next(5 * SECOND, true), Step::Send(_)));
    // This one is in line but not sent.
    session.push(queued(2, 6 * SECOND));
    session.expire(10 * SECOND);
    assert_eq!(outcomes(&mut session).len(), 2);
    assert!(!session.is_up());
    let again = resend(&mut session, Some(identity(7, 1)));
    assert_eq!(again.iter().map(number).collect::<Vec<_>>(), [2]);
}

#[test]
fn without_idempotence_a_timeout_takes_along_nothing() {
    let (mut session, _, _) = sent(false, 1);
    session.push(queued(1, 5 * SECOND));
    assert!(matches!(session.next(5 * SECOND, true), Step::Send(_)));
    session.expire(10 * SECOND);
    assert_eq!(outcomes(&mut session).len(), 1);
    let again = resend(&mut session, None);
    assert_eq!(again.iter().map(stamp).collect::<Vec<_>>(), [(-1, -1, -1)]);
}

#[test]
fn a_refusal_to_open_fails_what_is_in_flight_and_what_is_queued() {
    let random = Random::from_seed(1);
    let mut session = Session::new(settings(true));
    session.on_identity(identity(7, 0));
    let error = Failure::Refused(refused(ErrorCode::UnknownTopic));
    session.on_open_failed(MS, error, &random);
    assert!(matches!(
        session.take_refusal(),
        Some(DeliveryError::Rejected { code: ErrorCode::UnknownTopic, .. })
    ));
    // A record that comes later is a new attempt.
    assert!(matches!(session.next(MS, true), Step::Open(_)));
}

#[test]
fn a_topic_made_anew_fails_what_was_for_the_old_one() {
    let (mut session, random, _) = sent(true, 2);
    session.on_stream_lost(MS, "gone", &random);
    session.on_topic_replaced();
    assert_eq!(outcomes(&mut session).len(), 2);
    assert_eq!(session.next(SECOND, true), Step::Init(Some(identity(7, 0))));
}

#[test]
fn sequences_wrap_as_kafkas_do() {
    let mut session = Session::new(settings(true));
    session.on_identity(identity(7, 0));
    session.next_sequence = i32::MAX;
    session.push(queued(0, MS));
    session.push(queued(1, MS));
    session.on_opened(256);
    let sequences: Vec<_> = (0..2)
        .map(|_| match session.next(MS, false) {
            Step::Send(bytes) => stamp(&bytes).2,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sequences, [i32::MAX, 0]);
}

/// What a partition knows about the one producer of these tests, and its log.
#[derive(Default)]
struct ModelBroker {
    log: Vec<u32>,
    producer: Option<ModelProducer>,
    epochs: i16,
}

struct ModelProducer {
    id: i64,
    epoch: i16,
    next_sequence: i32,
    /// Sequence and offset of the last batches.
    kept: Vec<(i32, i64)>,
}

impl ModelBroker {
    fn append(&mut self, bytes: &Bytes) -> Result<ProduceAck, ServiceError> {
        let (id, epoch, sequence) = stamp(bytes);
        let offset = i64::try_from(self.log.len()).unwrap();
        match &mut self.producer {
            Some(known) if known.id == id && known.epoch == epoch => {
                if let Some((_, offset)) = known.kept.iter().find(|(kept, _)| *kept == sequence) {
                    return Ok(ack(*offset));
                }
                if sequence != known.next_sequence {
                    return Err(refused(ErrorCode::OutOfOrderSequence));
                }
                known.next_sequence += 1;
                known.kept.push((sequence, offset));
                if known.kept.len() > 5 {
                    known.kept.remove(0);
                }
            }
            Some(known) if known.id == id && known.epoch > epoch => {
                return Err(refused(ErrorCode::FencedProducer));
            }
            _ if sequence != 0 => return Err(refused(ErrorCode::UnknownProducer)),
            _ => {
                let kept = vec![(0, offset)];
                self.producer = Some(ModelProducer { id, epoch, next_sequence: 1, kept });
            }
        }
        self.log.push(number(bytes));
        Ok(ack(offset))
    }
}

/// One stream: what was sent and not yet processed, and the answers not yet delivered.
#[derive(Default)]
struct ModelStream {
    sent: VecDeque<Bytes>,
    answers: VecDeque<Result<ProduceAck, ServiceError>>,
}

/// A session and its surroundings, with faults chosen by a seed.
struct Simulation {
    random: Random,
    session: Session,
    broker: ModelBroker,
    stream: ModelStream,
    /// Streams that the session left; the broker may still work on them.
    old: Vec<ModelStream>,
    states: Vec<Arc<BatchState>>,
    total: usize,
    now: Monotonic,
}

impl Simulation {
    fn new(seed: u64, total: usize) -> Self {
        Self {
            random: Random::from_seed(seed),
            session: Session::new(settings(true)),
            broker: ModelBroker::default(),
            stream: ModelStream::default(),
            old: Vec::new(),
            states: Vec::new(),
            total,
            now: Monotonic::ZERO,
        }
    }

    fn chance(&self, percent: u32) -> bool {
        self.random.below(100) < percent
    }

    /// Runs to the end; returns the log and each batch's outcome.
    fn run(mut self) -> (Vec<u32>, Vec<Outcome>) {
        for _ in 0..200_000 {
            self.now += MS * self.random.below(20);
            self.session.expire(self.now);
            if self.step() {
                let outcome = |state: &Arc<BatchState>| state.outcome().unwrap().clone();
                return (self.broker.log, self.states.iter().map(outcome).collect());
            }
            self.broker_works();
            self.faults();
            self.answer();
            if !self.session.is_up() {
                self.old.push(std::mem::take(&mut self.stream));
            }
            for settled in self.session.take_settled() {
                settled.state.complete(settled.outcome);
            }
            assert_eq!(self.session.take_refusal(), None);
        }
        panic!("does not come to an end");
    }

    /// Does what the session wants; true when everything is done.
    fn step(&mut self) -> bool {
        let more = self.states.len() < self.total;
        match self.session.next(self.now, more) {
            Step::Init(_) if self.chance(10) => {
                let failure = Failure::Unreachable("lost".into());
                self.session.on_init_failed(self.now, failure, &self.random);
            }
            Step::Init(_) => {
                self.broker.epochs += 1;
                self.session.on_identity(identity(7, self.broker.epochs));
            }
            Step::Open(_) if self.chance(20) => {
                let failure = Failure::Refused(refused(ErrorCode::NotLeader));
                self.session.on_open_failed(self.now, failure, &self.random);
            }
            Step::Open(_) => {
                self.old.push(std::mem::take(&mut self.stream));
                self.session.on_opened(256);
            }
            Step::Send(bytes) => self.stream.sent.push_back(bytes),
            Step::Pull if more && self.chance(80) => {
                let batch = queued(u32::try_from(self.states.len()).unwrap(), self.now);
                self.states.push(Arc::clone(&batch.state));
                self.session.push(batch);
            }
            Step::Pull | Step::Wait => {
                if !more && !self.session.has_in_flight() {
                    return true;
                }
                if !self.session.is_up() {
                    self.now = self.session.deadline(true).unwrap_or(self.now).max(self.now);
                }
            }
        }
        false
    }

    /// The broker works on whichever stream it likes, in each stream's order.
    fn broker_works(&mut self) {
        for stream in self.old.iter_mut().chain([&mut self.stream]) {
            let random = &self.random;
            if let Some(bytes) = stream.sent.pop_front_if(|_| random.below(100) < 60) {
                let answer = match random.below(100) {
                    0..3 => Err(refused(ErrorCode::CorruptBatch)),
                    3..6 => Err(refused(ErrorCode::NotEnoughReplicas)),
                    _ => self.broker.append(&bytes),
                };
                stream.answers.push_back(answer);
            }
        }
    }

    fn faults(&mut self) {
        // A broker forgets producers that were idle for long: none with a first batch in doubt,
        // and none of whom anything is still on its way.
        let known = self.broker.producer.as_ref();
        if self.chance(1) && known.is_some_and(|known| known.next_sequence > 5) {
            self.broker.producer = None;
            self.old.clear();
        }
        if self.chance(3) && self.session.is_up() {
            self.session.on_stream_lost(self.now, "cut", &self.random);
        }
        if self.chance(1) {
            self.now += 3 * SECOND;
        }
    }

    fn answer(&mut self) {
        if !self.session.is_up() || !self.chance(70) {
            return;
        }
        match self.stream.answers.pop_front() {
            Some(Ok(ack)) => self.session.on_ack(self.now, ack, &self.random),
            Some(Err(error)) => self.session.on_refused(self.now, error, &self.random),
            None => {}
        }
    }
}

#[test]
fn whatever_fails_nothing_is_written_twice_or_out_of_order_or_lost_once_acknowledged() {
    let (mut acknowledged, mut unknown, mut refused) = (0, 0, 0);
    for seed in 0..1500 {
        let (log, outcomes) = Simulation::new(seed, 60).run();
        let order = log.is_sorted_by(|one, next| one < next);
        assert!(order, "seed {seed}: duplicate or out of order: {log:?}");
        for (number, outcome) in (0_u32..).zip(&outcomes) {
            let at = log.iter().position(|logged| *logged == number);
            match outcome {
                Ok(appended) => {
                    let offset = usize::try_from(appended.base_offset.value()).unwrap();
                    assert_eq!(at, Some(offset), "seed {seed}: batch {number}");
                    acknowledged += 1;
                }
                Err(error) if error.may_be_written() => unknown += 1,
                Err(error) => {
                    assert_eq!(at, None, "seed {seed}: batch {number} was written: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(acknowledged > 10_000 && unknown > 100 && refused > 100);
}
