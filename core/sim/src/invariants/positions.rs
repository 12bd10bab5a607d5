//! The positions stand in their order, and the log agrees with itself and with the replica.

use millstream_partition::Partition;
use millstream_replica::Durability;

use super::{Checked, violated};

pub(crate) const NAME: &str = "positions";

/// After every step. `failed` is whether the log takes nothing more: then the two may differ by
/// the batch or segment at which it failed.
pub(crate) fn check(partition: &Partition, durability: Durability, failed: bool) -> Checked {
    let (positions, log) = (partition.positions(), partition.log());
    if let Some(link) = positions.check(durability) {
        return violated(NAME, format!("{link} does not hold: {positions:?}"));
    }
    if let Err(problem) = log.check() {
        return violated(NAME, problem);
    }
    let told = [positions.start, positions.durable, positions.written, positions.end];
    let true_ones = [log.start(), log.durable_end(), log.written_end(), log.end()];
    if !failed && told != true_ones {
        return violated(NAME, format!("the replica has {told:?}, the log {true_ones:?}"));
    }
    Ok(())
}
