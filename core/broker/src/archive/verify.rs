//! Holds one archived range to its manifest, and to the log as far as that still has it.

use std::sync::Arc;

use millstream_log::{Cursor, ReadPlan};
use millstream_service::ServiceError;
use millstream_tiered::Entry;
use millstream_types::{Offset, TopicPartition};
use millstream_wire::api::{VerifyArchiveRequest, VerifyArchiveResponse};
use millstream_wire::{Batch, Codec};

use super::requests::cut;
use super::{Feed, service_error};
use crate::handle::{PartitionHandle, Source, read_error};
use crate::service::BrokerService;

/// Bytes read at once.
const READ_BYTES: usize = 1024 * 1024;

impl BrokerService {
    pub(crate) async fn verify_archive(
        &self,
        request: &VerifyArchiveRequest,
    ) -> Result<VerifyArchiveResponse, ServiceError> {
        let (handle, _) = self.leader(request.topic, request.partition, None)?;
        let mut reply = VerifyArchiveResponse {
            next: None,
            object: String::new(),
            records: 0,
            object_bytes: 0,
            compared: 0,
            fault: String::new(),
        };
        let id = TopicPartition { topic: request.topic, partition: request.partition };
        let state = self.quorum.state();
        let Some(slot) = self.archives.find(&state, id) else { return Ok(reply) };
        let held = slot.lock(&self.archives).await.map_err(|error| service_error(&error))?;
        let Some(archive) = held.as_ref() else { return Ok(reply) };
        let (entry, next) = {
            let mut entries = archive.entries().filter(|entry| entry.end > request.from.value());
            (entries.next().cloned(), entries.next().map(|next| next.base))
        };
        let Some(entry) = entry else { return Ok(reply) };
        reply.next = next.and_then(Offset::new);
        reply.object.clone_from(&entry.object);
        match archive.verify(&entry).await {
            Ok(verified) => {
                reply.records = verified.records;
                reply.object_bytes = verified.object_bytes;
            }
            // A store that does not answer has not shown anything wrong.
            Err(error) if error.is_retriable() => return Err(service_error(&error)),
            Err(error) => {
                reply.fault = cut(&error.to_string());
                return Ok(reply);
            }
        }
        drop(held);
        let mut feed = Feed::new(Arc::clone(&self.archives), id);
        match compare(&handle, &mut feed, &entry).await? {
            Ok(compared) => reply.compared = compared,
            Err(fault) => reply.fault = cut(&fault),
        }
        Ok(reply)
    }
}

/// Compares a range with the log, from where that starts; how many records were compared, or what
/// differs.
async fn compare(
    handle: &Arc<PartitionHandle>,
    feed: &mut Feed,
    entry: &Entry,
) -> Result<Result<u64, String>, ServiceError> {
    let end = Offset::new(entry.end).unwrap_or(Offset::MAX);
    let start = handle.with(|partition| partition.log().start())?;
    let mut at = Offset::new(entry.base).unwrap_or(Offset::ZERO).max(start);
    let mut compared = 0;
    while at < end {
        let archived = feed.read(at, READ_BYTES).await?;
        let local = log_batches(handle, at, archived.next).await?;
        // What retention took meanwhile cannot be compared.
        let Some(local) = local else { return Ok(Ok(compared)) };
        let pairs = archived.batches.iter().zip(&local);
        for (theirs, ours) in pairs {
            let theirs = Batch::validate(theirs.clone()).map_err(|error| internal(&error))?;
            match same(&theirs, ours) {
                Ok(records) => compared += records,
                Err(fault) => return Ok(Err(fault)),
            }
        }
        if archived.batches.len() != local.len() {
            return Ok(Err(format!("other batches than in the log from offset {at} on")));
        }
        at = archived.next;
    }
    Ok(Ok(compared))
}

fn internal(error: &impl std::fmt::Display) -> ServiceError {
    ServiceError::new(millstream_types::ErrorCode::Internal, error.to_string())
}

/// The log's batches from the one that holds `at` up to `end`; `None` where it has them no more.
async fn log_batches(
    handle: &Arc<PartitionHandle>,
    at: Offset,
    end: Offset,
) -> Result<Option<Vec<Batch>>, ServiceError> {
    let handle = Arc::clone(handle);
    let reading = tokio::task::spawn_blocking(move || {
        let (mut at, mut batches) = (Cursor::from(at), Vec::new());
        while at.offset() < end {
            let (pieces, next) = match handle.source(at, READ_BYTES)? {
                Source::Log(ReadPlan::Memory { batches, next }) => (batches, next),
                Source::Log(ReadPlan::File(read)) => {
                    let loaded = read.load().map_err(|error| read_error(&error))?;
                    (vec![loaded.batches], loaded.next)
                }
                Source::Archive | Source::Log(ReadPlan::Empty) => return Ok(None),
            };
            for mut rest in pieces {
                while !rest.is_empty() {
                    let (batch, behind) =
                        Batch::split_first(&rest).map_err(|error| internal(&error))?;
                    rest = behind;
                    if batch.header().base_offset < end {
                        batches.push(batch);
                    }
                }
            }
            at = next;
        }
        Ok(Some(batches))
    });
    reading.await.map_err(|error| internal(&error))?
}

/// Whether two batches say the same: all of the header but how it is compressed, and every record.
/// How many records, or what differs.
fn same(theirs: &Batch, ours: &Batch) -> Result<u64, String> {
    let (one, other) = (theirs.header(), ours.header());
    let at = other.base_offset;
    let facts = |header: &millstream_wire::BatchHeader| {
        (
            header.base_offset,
            header.next_offset(),
            header.leader_epoch,
            (header.producer_id, header.producer_epoch, header.base_sequence),
            (header.base_timestamp, header.max_timestamp),
            header.attributes.with_codec(Codec::None),
            header.record_count,
        )
    };
    if facts(one) != facts(other) {
        return Err(format!("the batch at offset {at} has another header than in the log"));
    }
    if one.attributes.is_control() || one.record_count == 0 {
        return Ok(0);
    }
    let differs = |error: String| format!("the batch at offset {at}: {error}");
    let records = |batch: &Batch| -> Result<Vec<millstream_wire::Record>, String> {
        let records = batch.records().map_err(|error| differs(error.to_string()))?;
        records.map(|record| record.map_err(|error| differs(error.to_string()))).collect()
    };
    let (theirs, ours) = (records(theirs)?, records(ours)?);
    if let Some(record) = ours.iter().zip(&theirs).find(|(a, b)| a != b) {
        return Err(format!("the record at offset {} is another than in the log", record.0.offset));
    }
    Ok(ours.len() as u64)
}
