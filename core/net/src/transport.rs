//! Every setting of QUIC in one place, each with its reason. Measurements behind them: the same
//! stream at 0.24 GB/s without segmentation offload and 0.87 with it; packets lost with default
//! socket buffers and hardly any with 4 MiB.

use std::sync::Arc;
use std::time::Duration;

use millstream_types::limits::{CONNECTION_STREAMS_MAX, HELLO_STREAMS_MAX, HELLO_WINDOW_BYTES};
use quinn::congestion::CubicConfig;
use quinn::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
};

/// Bytes that one stream may have in flight before its reader took any. Covers 80 MB/s at 50 ms.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes that a client's connection may have sent and not yet acknowledged. The payload is shared
/// with whoever handed it over, so this bounds what a slow peer keeps alive, not a copy.
const CLIENT_SEND_WINDOW_BYTES: u64 = 16 * 1024 * 1024;
/// What may be in flight before the first round trip has taught anything. The window grows only
/// while it is full, so that a stream of small batches would keep QUIC's usual 10 packets for
/// ever, and its first large batch would take a round trip for each of them. A burst of this size
/// is paced, and fits the buffers of any network that brokers live in.
const INITIAL_WINDOW_BYTES: u64 = 256 * 1024;
/// How many packets a peer may leave unacknowledged: one acknowledgement for each full send of
/// segmentation offload, instead of one for every second packet.
const UNACKED_PACKETS_MAX: u32 = 10;
/// How long a peer may hold back an acknowledgement. QUIC's 25 ms are part of every probe timeout:
/// a batch whose last packet is lost would wait for them.
const MAX_ACK_DELAY: Duration = Duration::from_millis(2);
/// Kernel buffer of each direction of a socket; the kernel may grant less.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Largest datagram payload: ten of them must fit the 64 KiB of one segmentation-offload send.
pub const MTU_BYTES_MAX: u16 = 6500;
/// Datagram payload that Ethernet's 1,500 bytes leave room for, under IPv6 with options.
pub const MTU_BYTES_DEFAULT: u16 = 1452;
/// Connection attempts that quinn queues before the accept loop sees them. The loop never waits,
/// so a longer queue only feeds a flood.
pub(crate) const INCOMING_MAX: usize = 1024;
/// Bytes of early packets kept for one such attempt: a Hello and a first request.
pub(crate) const INCOMING_BUFFER_BYTES: u64 = 64 * 1024;
/// Bytes of early packets kept for all such attempts.
pub(crate) const INCOMING_BUFFER_BYTES_TOTAL: u64 = 16 * 1024 * 1024;

/// What an operator may turn.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// The largest datagram payload that path discovery tries, in bytes; clamped to 1,200 to
    /// [`MTU_BYTES_MAX`]. Above [`MTU_BYTES_DEFAULT`] only on networks with jumbo frames.
    pub mtu_bytes_max: u16,
    /// A connection that hears nothing for this long is closed.
    pub idle_timeout: Duration,
    /// How often a client says that it is alive; below a third of the idle timeout.
    pub keep_alive: Duration,
    /// Streams that a client may have open on one connection.
    pub streams_max: u32,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            mtu_bytes_max: MTU_BYTES_DEFAULT,
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(8),
            streams_max: CONNECTION_STREAMS_MAX,
        }
    }
}

impl TransportOptions {
    fn mtu(&self) -> u16 {
        self.mtu_bytes_max.clamp(1200, MTU_BYTES_MAX)
    }

    pub(crate) fn streams(&self) -> u32 {
        self.streams_max.clamp(1, CONNECTION_STREAMS_MAX)
    }

    /// In milliseconds, within what QUIC and the Hello reply can carry.
    pub(crate) fn idle_timeout_ms(&self) -> u32 {
        u32::try_from(self.idle_timeout.as_millis()).unwrap_or(u32::MAX)
    }

    fn common(&self) -> TransportConfig {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu());
        let idle = IdleTimeout::from(VarInt::from_u32(self.idle_timeout_ms()));
        let mut congestion = CubicConfig::default();
        congestion.initial_window(INITIAL_WINDOW_BYTES);
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(UNACKED_PACKETS_MAX))
            .max_ack_delay(Some(MAX_ACK_DELAY));
        let mut config = TransportConfig::default();
        config
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .max_idle_timeout(Some(idle))
            .mtu_discovery_config(Some(discovery))
            // The protocol has neither; a peer that opens one is refused by the transport.
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .congestion_controller_factory(Arc::new(congestion))
            .ack_frequency_config(Some(acks))
            .enable_segmentation_offload(true);
        config
    }

    /// As connections begin, before anybody is known by name. Once Hello is answered they have
    /// their streams and a share of `crate::windows`. Broker streams are read at once into memory
    /// that has its own bound (see `ServerConfig`), so that streams do not stall singly and the
    /// connection's window only has to cover what is on its way.
    pub(crate) fn server(&self) -> Arc<TransportConfig> {
        let mut config = self.common();
        let window = VarInt::from_u64(HELLO_WINDOW_BYTES).unwrap_or(VarInt::MAX);
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(HELLO_STREAMS_MAX.min(self.streams())))
            .receive_window(window)
            .send_window(HELLO_WINDOW_BYTES);
        Arc::new(config)
    }

    pub(crate) fn client(&self) -> Arc<TransportConfig> {
        let mut config = self.common();
        // More than all streams' windows together, so that a subscription whose reader stalls
        // never holds up another. Memory stays bounded by the streams that the client opens.
        let window = u64::from(STREAM_WINDOW_BYTES) * (u64::from(self.streams()) + 1);
        config
            .receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX))
            .send_window(CLIENT_SEND_WINDOW_BYTES)
            // A broker opens no streams.
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .keep_alive_interval(Some(self.keep_alive));
        Arc::new(config)
    }

    pub(crate) fn endpoint(&self) -> EndpointConfig {
        let mut config = EndpointConfig::default();
        // Quinn's receive buffer grows with this; no more than what the path can carry.
        let payload = self.mtu().max(1472);
        if let Err(error) = config.max_udp_payload_size(payload) {
            tracing::warn!(payload, %error, "keeping the default datagram size");
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_segments_of_any_mtu_fit_one_offloaded_send() {
        let options = TransportOptions { mtu_bytes_max: u16::MAX, ..TransportOptions::default() };
        assert!(usize::from(options.mtu()) * 10 <= 65_535);
    }

    #[test]
    fn a_client_says_it_is_alive_before_the_idle_timeout() {
        let options = TransportOptions::default();
        assert!(options.keep_alive * 3 < options.idle_timeout);
    }
}
