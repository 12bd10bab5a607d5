//! Fresh identities: random 128-bit ids, and producer ids out of blocks of numbers that the
//! metadata quorum hands to this broker, so that no two producers of the cluster ever share one.
//! With the cluster's origin in them, none shares one with a producer of a restored topic.

use millstream_env::rng::{Entropy, SystemEntropy};
use millstream_meta::{Applied, Command, CommandBody, CommandId};
use millstream_quorum::Quorum;
use millstream_service::ServiceError;
use millstream_types::{BrokerId, ErrorCode, ProducerId, TimestampMs};
use tokio::sync::Mutex;

use crate::admin::propose;

/// Producer ids asked of the quorum at a time.
const PRODUCER_ID_BLOCK: u32 = 1_000;

/// Hands out identities.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// What is left of the current block.
    block: Mutex<std::ops::Range<i64>>,
}

impl Ids {
    /// 128 random bits.
    pub(crate) fn random() -> Result<[u8; 16], ServiceError> {
        let mut bytes = [0; 16];
        SystemEntropy
            .fill(&mut bytes)
            .map_err(|error| ServiceError::new(ErrorCode::Internal, error.to_string()))?;
        Ok(bytes)
    }

    /// A producer id that nobody had before. A block left unfinished at a restart is not used up.
    pub(crate) async fn producer(
        &self,
        quorum: &Quorum,
        broker: BrokerId,
        now: TimestampMs,
    ) -> Result<ProducerId, ServiceError> {
        let mut block = self.block.lock().await;
        if let Some(number) = block.next() {
            return producer_id(quorum, number);
        }
        let id = CommandId(u128::from_be_bytes(Self::random()?));
        let body = CommandBody::AllocateProducerIds { broker, count: PRODUCER_ID_BLOCK };
        match propose(quorum, Command::new(id, now, body)).await? {
            Applied::ProducerIdsAllocated { first, count } => {
                *block = first.0..first.0.saturating_add(i64::from(count));
                producer_id(quorum, block.next().unwrap_or(first.0))
            }
            other => Err(ServiceError::new(
                ErrorCode::Internal,
                format!("the metadata answered {other:?} to a request for producer ids"),
            )),
        }
    }
}

fn producer_id(quorum: &Quorum, number: i64) -> Result<ProducerId, ServiceError> {
    quorum.state().producer_id(number).ok_or_else(|| {
        let message = format!("producer {number} is beyond what an id can name");
        ServiceError::new(ErrorCode::LimitExceeded, message)
    })
}
