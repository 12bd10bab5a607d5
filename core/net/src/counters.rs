//! Counters of one side of the protocol, cheap enough to keep on every path.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the counters once: field, and name with its unit.
macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident = $name:literal;)*) => {
        /// What happened so far. All but the gauges only count up.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub(crate) $field: AtomicU64,)* }

        impl Counters {
            /// Every counter with its metric name, in a fixed order.
            #[must_use]
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Connections open now (a gauge).
    connections_open = "quic_connections_open";
    /// Connections that said Hello.
    connections = "quic_connections_total";
    /// Connection attempts turned away: limits, failed or late handshakes, refused Hellos.
    refused = "quic_connections_refused_total";
    /// Attempts sent back to validate their address.
    retried = "quic_address_validations_total";
    /// Streams open now (a gauge).
    streams_open = "quic_streams_open";
    /// Streams accepted.
    streams = "quic_streams_total";
    /// Frame bytes received, headers included.
    bytes_in = "quic_received_bytes_total";
    /// Memory that received frames hold of the accounts that all connections share (a gauge).
    received_held = "quic_received_held_bytes";
    /// Memory of the shared accounts that replies to calls have, from before they are built until
    /// the transport has taken them (a gauge).
    replies_held = "quic_reply_held_bytes";
    /// Calls that wait for memory for their replies, while others have it (a gauge).
    replies_waiting = "quic_replies_waiting";
    /// Streams that were reset because their client did not take its reply in time.
    replies_abandoned = "quic_replies_abandoned_total";
    /// Frame bytes handed to the transport, headers included.
    bytes_out = "quic_sent_bytes_total";
    /// Payload bytes copied between the transport and the service, in either direction.
    bytes_copied = "quic_copied_bytes_total";
    /// Times that batches were let go, since their client took nothing, to be read again later.
    batches_let_go = "quic_subscription_pauses_total";
    /// Subscriptions ended because others waited too long for memory that they held.
    overstayed = "quic_subscriptions_overstayed_total";
    /// Streams and connections ended because the peer broke the protocol.
    protocol_errors = "quic_protocol_errors_total";
}

impl Counters {
    /// One metric of [`Counters::snapshot`]; `None` for a name that it does not have.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.snapshot().into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

pub(crate) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}

pub(crate) fn subtract(counter: &AtomicU64, amount: usize) {
    counter.fetch_sub(amount as u64, Ordering::Relaxed);
}

/// Counts one up now and one down when dropped.
#[derive(Debug)]
pub(crate) struct Gauge<C: std::ops::Deref<Target = Counters>> {
    counters: C,
    field: fn(&Counters) -> &AtomicU64,
}

impl<C: std::ops::Deref<Target = Counters>> Gauge<C> {
    pub(crate) fn new(counters: C, field: fn(&Counters) -> &AtomicU64) -> Self {
        add(field(&counters), 1);
        Self { counters, field }
    }
}

impl<C: std::ops::Deref<Target = Counters>> Drop for Gauge<C> {
    fn drop(&mut self) {
        (self.field)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}
