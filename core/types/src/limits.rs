//! Every hard bound, related to its neighbours at compile time. What an operator may turn is a
//! config key in the broker, checked against these.

/// Bytes of a Kafka record batch v2 header, base offset and length included.
pub const BATCH_HEADER_BYTES: usize = 61;
/// The largest record batch, header included, that a topic can be configured to take.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest batch that a topic takes unless its `max.message.bytes` says otherwise.
pub const BATCH_BYTES_DEFAULT: usize = 4 * 1024 * 1024;
/// The most that one batch's records may come to once decompressed.
pub const BATCH_DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most records in one batch; bounds what a count in a hostile header can make us do.
pub const BATCH_RECORDS_MAX: u32 = 4 * 1024 * 1024;
/// The most headers on one record.
pub const RECORD_HEADERS_MAX: usize = 1024;

/// Bytes of a frame's header on a QUIC stream.
pub const FRAME_HEADER_BYTES: usize = 8;
/// The largest frame body: one batch and the fields before it.
pub const FRAME_BODY_BYTES_MAX: usize = BATCH_BYTES_MAX + 64 * 1024;
/// The largest body of a frame that carries no batch: requests, responses, acknowledgements.
pub const CONTROL_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most bytes of batches that a subscription frame gathers; a larger batch goes alone.
pub const SUBSCRIPTION_FRAME_BYTES: usize = 1024 * 1024;
/// The least memory for reads of older data that a broker can be configured to have.
pub const READ_BYTES_MIN: usize = 32 * 1024 * 1024;
/// The longest client id, namespace or other short name on the wire, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest topic name, in bytes (Kafka's limit).
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// The most partitions that one topic may have.
pub const TOPIC_PARTITIONS_MAX: u32 = 100_000;
/// The most topics that one request may name.
pub const REQUEST_TOPICS_MAX: usize = 10_000;
/// Streams that one client may have open on one connection.
pub const CONNECTION_STREAMS_MAX: u32 = 4096;
/// The most bytes that one connection may have unread in the transport.
pub const CONNECTION_WINDOW_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// So much every connection may have once its Hello was answered, however many there are. A frame
/// of any length gets through, since it is read out of the window as it arrives.
pub const CONNECTION_WINDOW_BYTES_MIN: u64 = 128 * 1024;
/// Bytes that a connection may have unread before its Hello was answered.
pub const HELLO_WINDOW_BYTES: u64 = 64 * 1024;
/// Streams that a client may have open before its Hello was answered.
pub const HELLO_STREAMS_MAX: u32 = 8;
/// Batches in flight on one produce stream; the front stops reading beyond it.
pub const PRODUCE_IN_FLIGHT_MAX: usize = 256;
/// Batches of one producer that stay recognisable as duplicates (Kafka's limit).
pub const PRODUCER_BATCHES_KEPT: usize = 5;
/// Producers that one partition remembers; the longest idle is forgotten first.
pub const PARTITION_PRODUCERS_MAX: usize = 100_000;

/// The smallest segment that a topic can be configured to have.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// The largest segment, so that positions in one fit 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024 - 1;
/// Kafka's `timestamp` times 1,000 must fit 64 bits: the archive keeps microseconds.
pub const TIMESTAMP_MS_MAX: i64 = i64::MAX / 1000;

const _: () = assert!(BATCH_BYTES_DEFAULT <= BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < FRAME_BODY_BYTES_MAX);
const _: () = assert!(FRAME_BODY_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(BATCH_BYTES_MAX <= BATCH_DECOMPRESSED_BYTES_MAX);
const _: () = assert!(SUBSCRIPTION_FRAME_BYTES < FRAME_BODY_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + SUBSCRIPTION_FRAME_BYTES <= READ_BYTES_MIN);
const _: () = assert!(CONTROL_BODY_BYTES_MAX < FRAME_BODY_BYTES_MAX);
const _: () = assert!((FRAME_BODY_BYTES_MAX as u64) < CONNECTION_WINDOW_BYTES_MAX);
const _: () = assert!(CONNECTION_WINDOW_BYTES_MIN < CONNECTION_WINDOW_BYTES_MAX);
const _: () = assert!(HELLO_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES_MIN);
const _: () = assert!(HELLO_STREAMS_MAX <= CONNECTION_STREAMS_MAX);
const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(SEGMENT_BYTES_MAX <= i32::MAX as u64);
const _: () = assert!(SEGMENT_BYTES_MIN > BATCH_HEADER_BYTES as u64);
