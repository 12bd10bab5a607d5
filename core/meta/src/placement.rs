//! Which brokers hold a new partition. Part of the state machine's rules: replay runs it again, so
//! a change needs a new [`crate::FORMAT_VERSION`].

use std::sync::Arc;

use millstream_types::BrokerId;

/// Places `count` partitions round-robin over `brokers`, as Kafka does: the first replica (the
/// preferred leader) walks the brokers from the `first`-th on, and the followers are shifted by
/// one more each round, so that one leader's followers differ from round to round.
///
/// Empty when `replication_factor` is 0 or exceeds the number of brokers.
#[must_use]
pub fn place(
    brokers: &[BrokerId],
    first: u64,
    count: u32,
    replication_factor: u16,
) -> Vec<Arc<[BrokerId]>> {
    let factor = usize::from(replication_factor);
    if factor == 0 || factor > brokers.len() {
        return Vec::new();
    }
    (0..u64::from(count)).map(|i| replicas(brokers, first.wrapping_add(i), factor)).collect()
}

/// The replicas of the `position`-th partition; `factor` is at least 1 and at most the number of
/// brokers.
fn replicas(brokers: &[BrokerId], position: u64, factor: usize) -> Arc<[BrokerId]> {
    let brokers_len = brokers.len() as u64;
    let mut chosen = Vec::with_capacity(factor);
    for nth in 0..factor as u64 {
        let shift = match nth {
            0 => 0,
            // With a second replica there are at least two brokers, so the divisor is not 0.
            _ => 1 + (position / brokers_len + nth - 1) % (brokers_len - 1),
        };
        let index = (position % brokers_len + shift) % brokers_len;
        chosen.extend(usize::try_from(index).ok().and_then(|index| brokers.get(index)));
    }
    chosen.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ids(values: &[u32]) -> Vec<BrokerId> {
        values.iter().copied().map(BrokerId).collect()
    }

    #[test]
    fn leaders_walk_the_brokers_and_followers_shift_each_round() {
        let placed = place(&ids(&[1, 2, 3]), 0, 6, 2);
        let expected: Vec<Arc<[BrokerId]>> = [[1, 2], [2, 3], [3, 1], [1, 3], [2, 1], [3, 2]]
            .iter()
            .map(|pair| ids(pair).into())
            .collect();
        assert_eq!(placed, expected);
    }

    #[test]
    fn replicas_of_a_partition_are_distinct() {
        for brokers in 1..8_u32 {
            let all = ids(&(0..brokers).collect::<Vec<_>>());
            for factor in 1..=u16::try_from(brokers).unwrap() {
                for replicas in place(&all, u64::MAX - 20, 40, factor) {
                    let distinct: BTreeSet<_> = replicas.iter().collect();
                    assert_eq!(distinct.len(), usize::from(factor));
                }
            }
        }
    }

    #[test]
    fn an_impossible_replication_factor_places_nothing() {
        assert!(place(&ids(&[1, 2]), 0, 5, 3).is_empty());
        assert!(place(&ids(&[1, 2]), 0, 5, 0).is_empty());
    }
}
