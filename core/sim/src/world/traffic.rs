//! Producers, consumers, and the disk's and the broker's own work.

use bytes::{Bytes, BytesMut};
use millstream_partition::{AppendError, Placed};
use millstream_replica::{Durability, Refusal};
use millstream_types::limits::BATCH_BYTES_MAX;
use millstream_types::{LeaderEpoch, Offset};
use millstream_wire::IncomingBatch;

use super::site::Site;
use super::{Sabotage, World};
use crate::consumer::{Got, read_all};
use crate::invariants::{
    Checked, Violation, acked_is_kept, archive_holds, fence_holds, no_duplicate, nothing_invented,
    one_order, progress,
};
use crate::ledger::{Entry, body_of, newest_of, number_of, number_of_bytes};

/// Rounds in which everything outstanding must end once nothing goes wrong any more.
const ROUNDS_TO_END: u32 = 20;

/// What became of a batch that was sent.
enum Answer {
    /// It is in the log; acknowledged later.
    Placed(Placed),
    /// The partition has lost track of its producer.
    Refused(Refusal),
    /// It was not taken, or nobody knows.
    NotTaken,
}

impl World {
    pub(super) fn produce(&mut self) -> Checked {
        let (site, producer) = self.any_producer();
        let now = self.now();
        let at = &mut self.sites[site];
        if at.partition.is_none() || !at.producers[producer].may_send() {
            return Ok(());
        }
        let bytes = match at.producers[producer].build(&mut self.rng, now) {
            Ok(bytes) => bytes,
            Err(error) => return progress::without_cause("a batch was not built", &error),
        };
        at.ledger.sent.insert(body_of(&bytes));
        let last = at.producers[producer].in_flight.len() - 1;
        self.transmit(site, producer, last)
    }

    pub(super) fn resend(&mut self) -> Checked {
        let (site, producer) = self.any_producer();
        match self.sites[site].producers[producer].to_resend() {
            Some(batch) => self.transmit(site, producer, batch),
            None => Ok(()),
        }
    }

    /// An old batch of an idempotent producer arrives again; whatever the answer, nobody hears it.
    pub(super) fn stray(&mut self) -> Checked {
        let (site, producer) = self.any_producer();
        let history = &self.sites[site].producers[producer].history;
        if producer == 0 || history.is_empty() {
            return Ok(());
        }
        let bytes = history[self.rng.index(history.len())].clone();
        self.note(format_args!("{site}/{producer}: a batch arrives late"));
        self.append(site, &bytes).map(drop)
    }

    pub(super) fn lose_ack(&mut self) -> Checked {
        let (site, producer) = self.any_producer();
        self.sites[site].producers[producer].disconnect();
        self.note(format_args!("{site}/{producer}: disconnected"));
        Ok(())
    }

    fn any_producer(&mut self) -> (usize, usize) {
        let site = self.rng.index(self.sites.len());
        (site, self.rng.index(self.sites[site].producers.len()))
    }

    fn transmit(&mut self, site: usize, producer: usize, batch: usize) -> Checked {
        let bytes = self.sites[site].producers[producer].in_flight[batch].bytes.clone();
        let answer = self.append(site, &bytes)?;
        let Site { producers, ledger, .. } = &mut self.sites[site];
        let sender = &mut producers[producer];
        match answer {
            Answer::Placed(placed) => {
                sender.in_flight[batch].place = Some(placed);
                let Placed { base_offset, next_offset, duplicate, .. } = placed;
                let again = if duplicate { " again" } else { "" };
                self.note(format_args!("{site}/{producer}: {base_offset}..{next_offset}{again}"));
            }
            Answer::NotTaken => {
                sender.not_taken();
                self.note(format_args!("{site}/{producer}: not taken"));
            }
            Answer::Refused(refusal) => {
                let forgets = self.options.sabotage == Some(Sabotage::ForgetProducers);
                let number = number_of_bytes(&bytes);
                let forgotten = number.is_some_and(|number| ledger.may_have_forgotten(number));
                if !sender.may_be_refused && !forgotten && !forgets {
                    let what = format!("{site}/{producer}: a batch was refused");
                    return progress::without_cause(&what, &refusal);
                }
                sender.start_over();
                self.counts.refused += 1;
                self.note(format_args!("{site}/{producer}: starts over: {refusal}"));
            }
        }
        Ok(())
    }

    /// Hands a batch to the broker and compares its answer with what is known.
    fn append(&mut self, site: usize, bytes: &Bytes) -> Result<Answer, Violation> {
        let fenced = self.disk.is_fenced();
        let now = self.now();
        let at = &mut self.sites[site];
        let epoch = LeaderEpoch(at.epoch);
        let Some(partition) = &mut at.partition else { return Ok(Answer::NotTaken) };
        let batch = match IncomingBatch::validate(BytesMut::from(&bytes[..]), BATCH_BYTES_MAX) {
            Ok(batch) => batch,
            Err(error) => {
                progress::without_cause("a batch was refused", &error)?;
                return Ok(Answer::NotTaken);
            }
        };
        let number = number_of(batch.header());
        let before = partition.log().end();
        let result = partition.append(now, batch);
        let after = partition.log().end();
        let newest = newest_of(bytes);
        let entry = |base, next| Entry { base, next, epoch, newest, body: body_of(bytes), number };
        let new = match &result {
            Ok(placed) if placed.duplicate => {
                let known = entry(placed.base_offset, placed.next_offset);
                no_duplicate::recognised(&at.ledger, &known)?;
                self.counts.recognised += 1;
                None
            }
            Ok(placed) => Some(entry(placed.base_offset, placed.next_offset)),
            // It failed after the batch had its place.
            Err(_) => (before < after).then(|| entry(before, after)),
        };
        if let Some(entry) = new {
            if fenced {
                fence_holds::placed(entry.base)?;
            }
            no_duplicate::placed(&at.ledger, &entry)?;
            one_order::placed(&at.ledger, &entry)?;
            if let Some(before) = at.ledger.place(entry) {
                // Its producer was forgotten, and now stands where it stood then.
                at.producers.iter_mut().for_each(|producer| producer.note_forgotten(before));
            }
            self.counts.placed += 1;
        }
        match result {
            Ok(placed) => Ok(Answer::Placed(placed)),
            Err(error) => self.not_appended(site, &error),
        }
    }

    fn not_appended(&mut self, site: usize, error: &AppendError) -> Result<Answer, Violation> {
        let unwell = self.disk.is_fenced() || !self.disk.is_on();
        match error {
            AppendError::Refused(
                refusal @ (Refusal::UnknownProducer { .. }
                | Refusal::FencedProducer { .. }
                | Refusal::OutOfOrderSequence { .. }),
            ) => return Ok(Answer::Refused(*refusal)),
            AppendError::Log(millstream_log::AppendError::NoSpace)
                if self.faults.space_bytes_max.is_some() =>
            {
                self.counts.no_space += 1;
            }
            AppendError::Log(millstream_log::AppendError::Failed(failed)) if unwell => {
                self.sites[site].failed.get_or_insert(failed.clone());
            }
            _ => progress::without_cause("a batch was refused", error)?,
        }
        Ok(Answer::NotTaken)
    }

    /// Gives the producers the acknowledgements that are due.
    pub(super) fn collect_acks(&mut self) -> Checked {
        let early = self.options.sabotage == Some(Sabotage::AckWritten);
        for site in &mut self.sites {
            let Some(partition) = &site.partition else { continue };
            let positions = partition.positions();
            let committed = if early { positions.written } else { positions.high_watermark };
            for producer in &mut site.producers {
                while let Some((place, bytes)) = producer.take_ack(committed) {
                    let ledger = &mut site.ledger;
                    acked_is_kept::acknowledged(ledger, place.base_offset, &body_of(&bytes))?;
                    let entry = ledger.placed.get(&place.base_offset).cloned();
                    ledger.acked.extend(entry.map(|entry| (entry.base, entry)));
                    self.counts.acked += 1;
                }
            }
        }
        Ok(())
    }

    pub(super) fn disk_step(&mut self) -> Checked {
        let now = self.now();
        if self.disk.step() {
            for site in &mut self.sites {
                site.take_completions(now);
            }
        }
        Ok(())
    }

    pub(super) fn maintain(&mut self) -> Checked {
        let site = self.rng.index(self.sites.len());
        self.maintain_site(site)
    }

    pub(super) fn maintain_site(&mut self, index: usize) -> Checked {
        let now = self.now();
        let site = &mut self.sites[index];
        let Some(partition) = &mut site.partition else { return Ok(()) };
        let (start, segments) = (partition.log().start(), partition.log().segment_count());
        let mut result = partition.maintain(now);
        while result.is_ok() {
            match partition.forget_oldest(now) {
                Ok(Some(_removed)) => {}
                Ok(None) => break,
                Err(error) => result = Err(error),
            }
        }
        let (new_start, left) = (partition.log().start(), partition.log().segment_count());
        if new_start > start {
            self.counts.trimmed += u64::try_from(segments - left).unwrap_or_default();
        }
        if let Err(error) = result {
            if self.disk.is_on() && !self.disk.is_fenced() {
                return progress::without_cause("maintenance failed", &error);
            }
            site.failed.get_or_insert(error);
        }
        self.note(format_args!("{index}: maintained, {left} segments from {new_start}"));
        Ok(())
    }

    pub(super) fn seek(&mut self) -> Checked {
        let index = self.rng.index(self.sites.len());
        let site = &mut self.sites[index];
        let consumer = self.rng.index(site.consumers.len());
        let (start, end) = (site.ledger.first(), site.ledger.high_watermark);
        let offset = start.plus(self.rng.below(end.since(start) + 1));
        site.consumers[consumer].seek(offset);
        self.note(format_args!("{index}: consumer {consumer} goes to {offset}"));
        Ok(())
    }

    pub(super) fn consume(&mut self) -> Checked {
        let index = self.rng.index(self.sites.len());
        let ahead = self.options.sabotage == Some(Sabotage::ShowWritten);
        let site = &mut self.sites[index];
        let consumer = self.rng.index(site.consumers.len());
        let Some(partition) = &site.partition else { return Ok(()) };
        match site.consumers[consumer].step(partition, &mut self.rng, ahead) {
            Got::Nothing => Ok(()),
            Got::Batches { from, up_to, entries } => {
                let entries = self.without_rot(index, entries);
                let ledger = &mut self.sites[index].ledger;
                nothing_invented::read(ledger, &entries)?;
                one_order::read(ledger, from, up_to, &entries)?;
                let count = entries.len();
                ledger.read.extend(entries.into_iter().map(|entry| (entry.base, entry)));
                self.counts.read += u64::try_from(count).unwrap_or_default();
                self.note(format_args!("{index}: consumer {consumer} got {count} from {from}"));
                Ok(())
            }
            Got::Moved { from } if site.ledger.archived && from < partition.log().start() => {
                self.consume_archived(index, consumer, from)
            }
            Got::Moved { from } => {
                // Below the start retention removed it; above the end a power cut took it.
                let may_lose = site.durability() == Durability::Replicated;
                let end = partition.log().end();
                if from > end && !may_lose {
                    return one_order::reopened(&site.ledger, end);
                }
                self.note(format_args!("{index}: consumer {consumer} moved from {from}"));
                Ok(())
            }
            problem => self.unreadable(index, &problem),
        }
    }

    /// A leader epoch that rotted: no checksum that readers see covers it.
    fn without_rot(&self, site: usize, mut entries: Vec<Entry>) -> Vec<Entry> {
        if self.rotten {
            for entry in &mut entries {
                let placed = self.sites[site].ledger.placed.get(&entry.base);
                entry.epoch = placed.map_or(entry.epoch, |placed| placed.epoch);
            }
        }
        entries
    }

    pub(super) fn unreadable(&mut self, site: usize, problem: &Got) -> Checked {
        match problem {
            Got::Damage(damage) if self.rotten => {
                self.counts.damage_reported += 1;
                self.note(format_args!("{site}: {damage}"));
                Ok(())
            }
            Got::Failed(_) if !self.disk.is_on() => Ok(()),
            Got::Failed(error) => progress::without_cause("a read failed", error),
            _ => progress::stuck(format!("{site} cannot be read: {problem:?}")),
        }
    }

    pub(super) fn audit_one(&mut self) -> Checked {
        let site = self.rng.index(self.sites.len());
        self.audit(site)
    }

    pub(super) fn audit_all(&mut self) -> Checked {
        (0..self.sites.len()).try_for_each(|site| self.audit(site))
    }

    /// Reads all that is committed and compares it with everything known.
    fn audit(&mut self, index: usize) -> Checked {
        let max_bytes = 1 + self.rng.index(16 * 1024);
        let Some(partition) = &self.sites[index].partition else { return Ok(()) };
        let stored = match read_all(partition, max_bytes) {
            Ok(stored) => stored,
            Err(problem) => return self.unreadable(index, &problem),
        };
        let up_to = partition.positions().high_watermark;
        let stored = self.without_rot(index, stored);
        let Site { ledger, archive, .. } = &self.sites[index];
        let (start, stored) = (ledger.first(), archive_holds::joined(archive, stored)?);
        // A log that was just opened does not know yet how far it was committed.
        let up_to = up_to.max(archive.head().map_or(up_to, |head| head.end));
        nothing_invented::read(ledger, &stored)?;
        no_duplicate::audited(&stored)?;
        acked_is_kept::audited(ledger, &stored, up_to)?;
        one_order::audited(&stored)?;
        if start < up_to {
            one_order::read(ledger, start, up_to, &stored)?;
        }
        let end = stored.last().map_or(start, |entry| entry.next);
        if end < up_to {
            return progress::stuck(format!("{index} is committed to {up_to}, read to {end}"));
        }
        self.note(format_args!("{index}: {} batches in {start}..{up_to}", stored.len()));
        Ok(())
    }

    /// Sends again whatever is outstanding until all of it is acknowledged.
    pub(super) fn complete_all(&mut self) -> Checked {
        for _ in 0..ROUNDS_TO_END {
            for site in 0..self.sites.len() {
                for producer in 0..self.sites[site].producers.len() {
                    while self.sites[site].partition.is_some()
                        && let Some(batch) = self.sites[site].producers[producer].to_resend()
                    {
                        self.transmit(site, producer, batch)?;
                    }
                }
                self.maintain_site(site)?;
            }
            self.settle()?;
            self.collect_acks()?;
            for site in &mut self.sites {
                site.check()?;
            }
        }
        for site in self.sites.iter().filter(|site| site.partition.is_some()) {
            let outstanding: usize =
                site.producers.iter().map(|producer| producer.in_flight.len()).sum();
            if outstanding > 0 {
                return progress::stuck(format!("{}: {outstanding} batches never end", site.index));
            }
        }
        Ok(())
    }

    /// Nothing is committed on a fenced disk. `before` is where each high watermark was.
    pub(super) fn check_fence(&self, before: &[Offset]) -> Checked {
        for (site, before) in self.sites.iter().zip(before) {
            if site.partition.is_some() {
                fence_holds::stands(*before, site.ledger.high_watermark)?;
            }
        }
        Ok(())
    }
}
