//! The first exchange of a connection: who speaks, which version, within which limits.

use bytes::BytesMut;
use millstream_types::limits::NAME_BYTES_MAX;
use millstream_types::{BrokerId, ClusterId};

use super::codec::{DecodeError, Decoder, EncodeError, Encoder, FrameBody, encode_with};
use super::reply::ReplyBody;
use crate::frame::FrameKind;

/// The first four bytes of a Hello's body.
pub const MAGIC: [u8; 4] = *b"MLST";

/// What a client says first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The lowest protocol version that the client speaks.
    pub version_min: u16,
    /// The highest.
    pub version_max: u16,
    /// Names the client in logs, metrics and quotas; at most 255 bytes.
    pub client_id: String,
    /// The namespace of every topic name on this connection; `default` for now.
    pub namespace: String,
    /// The client software's name, for operators.
    pub software_name: String,
    /// The client software's version, for operators.
    pub software_version: String,
}

impl FrameBody for Hello {
    const KIND: FrameKind = FrameKind::Hello;

    fn write_body(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_with(out, |out| {
            out.raw(&MAGIC);
            out.put(&self.version_min);
            out.put(&self.version_max);
            out.string("client id", &self.client_id, NAME_BYTES_MAX);
            out.string("namespace", &self.namespace, NAME_BYTES_MAX);
            out.string("software name", &self.software_name, NAME_BYTES_MAX);
            out.string("software version", &self.software_version, NAME_BYTES_MAX);
        })
    }

    fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(body);
        let magic = input.take::<u32>("magic")?;
        if magic.to_be_bytes() != MAGIC {
            return Err(DecodeError::BadValue { what: "magic", value: magic.into() });
        }
        Ok(Self {
            version_min: input.take("lowest version")?,
            version_max: input.take("highest version")?,
            client_id: input.string("client id", NAME_BYTES_MAX)?,
            namespace: input.string("namespace", NAME_BYTES_MAX)?,
            software_name: input.string("software name", NAME_BYTES_MAX)?,
            software_version: input.string("software version", NAME_BYTES_MAX)?,
        })
    }
}

/// What the server answers; on the wire it follows the status of every reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HelloReply {
    /// The version that both speak from here on.
    pub version: u16,
    /// The cluster.
    pub cluster: ClusterId,
    /// The broker that answers.
    pub broker: BrokerId,
    /// The largest frame body, in bytes.
    pub frame_bytes_max: u32,
    /// The largest record batch that any topic can take, in bytes.
    pub batch_bytes_max: u32,
    /// Streams that the client may have open on this connection.
    pub streams_max: u32,
    /// Batches that may be in flight on one produce stream.
    pub in_flight_max: u32,
    /// The server closes a connection that was silent for this long.
    pub idle_timeout_ms: u32,
}

impl ReplyBody for HelloReply {
    const KIND: FrameKind = FrameKind::HelloReply;

    fn put_fields(&self, out: &mut Encoder<'_>) {
        out.put(&self.version);
        out.put(&self.cluster.to_bytes());
        out.put(&self.broker);
        out.put(&self.frame_bytes_max);
        out.put(&self.batch_bytes_max);
        out.put(&self.streams_max);
        out.put(&self.in_flight_max);
        out.put(&self.idle_timeout_ms);
    }

    fn take_fields(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            version: input.take("version")?,
            cluster: ClusterId::from_bytes(input.take("cluster id")?),
            broker: input.take("broker id")?,
            frame_bytes_max: input.take("frame limit")?,
            batch_bytes_max: input.take("batch limit")?,
            streams_max: input.take("stream limit")?,
            in_flight_max: input.take("in-flight limit")?,
            idle_timeout_ms: input.take("idle timeout")?,
        })
    }
}
