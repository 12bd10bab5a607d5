//! Producer ids: which the cluster has given out, and which it knows to be another's.
//!
//! The metadata counts; an id is the number and its cluster's origin, so that a restored producer
//! and one of this cluster are two. Clusters gave out bare numbers before, which are origin 0.

use std::sync::Arc;

use millstream_types::ProducerId;

use crate::state::MetaState;

/// The most other clusters whose producers may go on here.
pub const OTHER_ORIGINS_MAX: usize = 10_000;

impl MetaState {
    /// The id of this cluster's producer of a number that
    /// [`crate::CommandBody::AllocateProducerIds`] gave. `None` when there are no ids any more.
    #[must_use]
    pub fn producer_id(&self, number: i64) -> Option<ProducerId> {
        ProducerId::from_parts(self.cluster?.producer_origin(), number)
    }

    /// Whether a producer id was given out: by some broker of this cluster, or by another cluster
    /// to a producer of a topic that was restored here.
    #[must_use]
    pub fn has_allocated(&self, id: ProducerId) -> bool {
        if !id.is_some() {
            return false;
        }
        if self.is_own_producer(id) {
            return id.number() < self.producer_id_next;
        }
        self.other_producers.get(&id.origin()).is_some_and(|largest| id.number() <= *largest)
    }

    /// Whether an id is one that this cluster gives out, or gave out before ids had an origin.
    #[must_use]
    pub fn is_own_producer(&self, id: ProducerId) -> bool {
        let ours = self.cluster.map(|cluster| cluster.producer_origin());
        id.origin() == 0 || Some(id.origin()) == ours
    }

    /// The largest known id of each other cluster, in order.
    pub(crate) fn other_producers(&self) -> impl Iterator<Item = ProducerId> {
        let parts = self.other_producers.iter();
        parts.filter_map(|(origin, largest)| ProducerId::from_parts(*origin, *largest))
    }

    /// Takes up the largest ids of other clusters' producers.
    pub(crate) fn know_producers(&mut self, largest: &[ProducerId]) {
        for id in largest {
            let known = Arc::make_mut(&mut self.other_producers);
            let known = known.entry(id.origin()).or_default();
            *known = id.number().max(*known);
        }
    }

    /// Why these cannot be the largest ids of other clusters' producers, if they cannot.
    pub(crate) fn others_fault(&self, largest: &[ProducerId]) -> Option<&'static str> {
        if largest.iter().any(|id| !id.is_some() || self.is_own_producer(*id)) {
            return Some("a producer of another cluster has an id of this one, or none");
        }
        let new = largest.iter().filter(|id| !self.other_producers.contains_key(&id.origin()));
        (self.other_producers.len().saturating_add(new.count()) > OTHER_ORIGINS_MAX)
            .then_some("its producers are of more other clusters than are remembered")
    }

    /// The rule that what the state holds of producers breaks, if any.
    pub(crate) fn producers_fault(&self) -> Option<&'static str> {
        if self.producer_id_next < 0 {
            return Some("producer ids are not negative");
        }
        let known = &self.other_producers;
        let wrong = |(origin, number): (&u32, &i64)| {
            ProducerId::from_parts(*origin, *number).is_none_or(|id| self.is_own_producer(id))
        };
        (known.len() > OTHER_ORIGINS_MAX || known.iter().any(wrong))
            .then_some("producers of others are of other clusters, within the limit")
    }
}
