//! A producer as the client behaves: batches numbered and in flight, sent again in order until
//! they are acknowledged, under a new epoch once the partition has lost track of it.

use std::collections::VecDeque;

use bytes::Bytes;
use millstream_env::rng::Rng;
use millstream_partition::Placed;
use millstream_types::limits::PRODUCER_BATCHES_KEPT;
use millstream_types::{Offset, ProducerEpoch, ProducerId, TimestampMs};
use millstream_wire::{BatchBuilder, BuildError, Codec, ProducerStamp};

use crate::ledger::Number;

/// Batches that may arrive a second time, late.
const HISTORY_BATCHES: usize = 24;
/// The most records in an ordinary batch.
const RECORDS_MAX: u64 = 6;
/// The most bytes of an ordinary value; one in a while is larger.
const VALUE_BYTES_MAX: usize = 200;
const LARGE_VALUE_BYTES_MAX: usize = 6000;

/// A batch on its way.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) bytes: Bytes,
    /// Where the broker put it, once it has; `None` again when the answer was lost.
    pub(crate) place: Option<Placed>,
}

/// One producer of one partition.
#[derive(Debug)]
pub(crate) struct Producer {
    /// `None` for a producer that is not idempotent: it never sends a batch again.
    id: Option<ProducerId>,
    epoch: i16,
    next_sequence: i32,
    /// Makes its batches differ from those of all others.
    label: String,
    batches: u64,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// What it has sent; the newest last.
    pub(crate) history: VecDeque<Bytes>,
    /// Whether acknowledged batches of its may be gone, so that the next may be refused.
    pub(crate) may_be_refused: bool,
}

impl Producer {
    pub(crate) fn new(label: String, id: Option<ProducerId>) -> Self {
        Self {
            id,
            epoch: 0,
            next_sequence: 0,
            label,
            batches: 0,
            in_flight: VecDeque::new(),
            history: VecDeque::new(),
            may_be_refused: false,
        }
    }

    /// A batch of that number was stored anew after the partition had forgotten it: if it is this
    /// producer's, its next batches may be refused.
    pub(crate) fn note_forgotten(&mut self, (id, _, _): Number) {
        self.may_be_refused |= self.id == Some(id);
    }

    /// Whether it may send a batch that it has not sent before: order comes first.
    pub(crate) fn may_send(&self) -> bool {
        self.to_resend().is_none() && self.in_flight.len() < PRODUCER_BATCHES_KEPT
    }

    /// The first batch that has no answer.
    pub(crate) fn to_resend(&self) -> Option<usize> {
        self.in_flight.iter().position(|batch| batch.place.is_none())
    }

    /// Builds the next batch and puts it in flight.
    pub(crate) fn build(&mut self, rng: &mut Rng, now: TimestampMs) -> Result<Bytes, BuildError> {
        let codec = Codec::ALL.get(rng.index(Codec::ALL.len())).copied().unwrap_or_default();
        let records = 1 + rng.below(RECORDS_MAX);
        let mut builder = BatchBuilder::new(codec, 0);
        for record in 0..records {
            let value = self.value(rng, record);
            let key = rng.chance(50).then(|| [u8::try_from(rng.below(8)).unwrap_or_default()]);
            let late = i64::try_from(rng.below(100)).unwrap_or_default();
            let time = TimestampMs(now.0 - late);
            builder.append(time, key.as_ref().map(<[u8; 1]>::as_slice), Some(&value), &[])?;
        }
        let stamp = match self.id {
            Some(id) => ProducerStamp {
                id,
                epoch: ProducerEpoch(self.epoch),
                base_sequence: self.next_sequence,
            },
            None => ProducerStamp::NONE,
        };
        let bytes = builder.build(stamp)?;
        self.batches += 1;
        self.next_sequence += i32::try_from(records).unwrap_or_default();
        self.in_flight.push_back(InFlight { bytes: bytes.clone(), place: None });
        self.history.push_back(bytes.clone());
        if self.history.len() > HISTORY_BATCHES {
            self.history.pop_front();
        }
        Ok(bytes)
    }

    fn value(&self, rng: &mut Rng, record: u64) -> Vec<u8> {
        let mut value = format!("{}/{}/{record};", self.label, self.batches).into_bytes();
        let most = if rng.chance(2) { LARGE_VALUE_BYTES_MAX } else { VALUE_BYTES_MAX };
        let filler = rng.index(most);
        let from = value.len();
        value.resize(from + filler, b'.');
        // Half of it does not compress.
        rng.fill(&mut value[from + filler / 2..]);
        value
    }

    /// Takes the acknowledgement of its oldest batch, if what is committed has reached it.
    pub(crate) fn take_ack(&mut self, committed: Offset) -> Option<(Placed, Bytes)> {
        let place = self.in_flight.front()?.place?;
        if place.next_offset > committed {
            return None;
        }
        self.in_flight.pop_front().map(|batch| (place, batch.bytes))
    }

    /// Its connection is gone, and every answer on its way with it.
    pub(crate) fn disconnect(&mut self) {
        if self.id.is_none() {
            self.in_flight.clear();
        }
        for batch in &mut self.in_flight {
            batch.place = None;
        }
    }

    /// A batch was refused: it gives up what is in flight and starts over under a new epoch.
    pub(crate) fn start_over(&mut self) {
        self.in_flight.clear();
        self.epoch += 1;
        self.next_sequence = 0;
        self.may_be_refused = false;
    }

    /// A batch was not taken; one that is not idempotent does not try again.
    pub(crate) fn not_taken(&mut self) {
        if self.id.is_none() {
            self.in_flight.retain(|batch| batch.place.is_some());
        }
    }
}
