//! Frames: what a stream of the native protocol is made of.
//!
//! A frame is an 8-byte header and a body. The header says how long the body is, what it is, which
//! version of the protocol laid it out, and whether a receiver that does not know its kind may skip
//! it. Everything here is a plain conversion of bytes; `docs/protocol.md` is the specification.

use millstream_types::limits::{
    BATCH_BYTES_MAX, CONTROL_BODY_BYTES_MAX, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES,
};
use thiserror::Error;

/// The version of the protocol that this build speaks, and the only one so far.
pub const PROTOCOL_VERSION: u16 = 1;
/// [`PROTOCOL_VERSION`] as it stands in a frame's header.
const FRAME_VERSION: u8 = 1;
/// Flag bit 0: a receiver that does not know the kind drops the frame and reads on.
pub const FLAG_SKIPPABLE: u16 = 1;
/// The longest body of a Hello and of its reply: a stranger may not make us hold more.
pub const HELLO_BODY_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a Batches frame's body before its first batch: the high watermark.
pub const BATCHES_PREFIX_BYTES: usize = 8;

/// What a frame's body is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Client: opens a connection. Always the first frame of the first stream.
    Hello = 1,
    /// Server: answers [`FrameKind::Hello`].
    HelloReply = 2,
    /// Client: one unary request.
    Request = 3,
    /// Server: answers [`FrameKind::Request`], or refuses a stream whose first frame it cannot use.
    Response = 4,
    /// Client: opens a produce session.
    OpenProduce = 5,
    /// Server: answers [`FrameKind::OpenProduce`].
    ProduceOpened = 6,
    /// Client: exactly one record batch.
    Produce = 7,
    /// Server: answers one [`FrameKind::Produce`], in the order of the batches.
    ProduceAck = 8,
    /// Client: opens a subscription.
    OpenSubscription = 9,
    /// Server: answers [`FrameKind::OpenSubscription`].
    SubscriptionOpened = 10,
    /// Server: the high watermark, then whole record batches back to back.
    Batches = 11,
    /// Server: where the partition stands while there is nothing to push.
    Progress = 12,
    /// Server: the last frame of a subscription or a produce session, saying why it ended.
    End = 13,
}

impl FrameKind {
    /// Every kind, in order.
    pub const ALL: &[Self] = &[
        Self::Hello,
        Self::HelloReply,
        Self::Request,
        Self::Response,
        Self::OpenProduce,
        Self::ProduceOpened,
        Self::Produce,
        Self::ProduceAck,
        Self::OpenSubscription,
        Self::SubscriptionOpened,
        Self::Batches,
        Self::Progress,
        Self::End,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From the number on the wire; `None` for a kind that this build does not know.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }

    /// The longest body that a frame of this kind may have, in bytes.
    #[must_use]
    pub const fn body_bytes_max(self) -> usize {
        match self {
            Self::Hello | Self::HelloReply => HELLO_BODY_BYTES_MAX,
            Self::Produce => BATCH_BYTES_MAX,
            Self::Batches => FRAME_BODY_BYTES_MAX,
            _ => CONTROL_BODY_BYTES_MAX,
        }
    }
}

/// Why a frame's header is refused. The stream cannot be read on after any of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// The body would be longer than its kind may be.
    #[error("a frame of kind {kind} claims {body_bytes} bytes, the most is {limit_bytes}")]
    TooLong {
        /// The kind's number.
        kind: u8,
        /// What the header claims.
        body_bytes: u32,
        /// What the kind allows.
        limit_bytes: usize,
    },
    /// The kind is unknown and not marked skippable.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// The frame was laid out by a version that was not agreed upon.
    #[error("unknown frame version {0}")]
    UnknownVersion(u8),
}

/// A frame's header, checked: what follows it may be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the body is; `None` for an unknown kind that the sender allows to be skipped.
    pub kind: Option<FrameKind>,
    /// Bytes of body that follow; within the kind's limit.
    pub body_bytes: u32,
    /// Flag bits; the ones that this version does not define are ignored.
    pub flags: u16,
}

impl FrameHeader {
    /// Reads and checks a header. Nothing needs to be allocated before this has agreed.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn decode(bytes: [u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, code, version, f0, f1] = bytes;
        let body_bytes = u32::from_be_bytes([l0, l1, l2, l3]);
        let flags = u16::from_be_bytes([f0, f1]);
        if version != FRAME_VERSION {
            return Err(FrameError::UnknownVersion(version));
        }
        let kind = FrameKind::from_code(code);
        if kind.is_none() && flags & FLAG_SKIPPABLE == 0 {
            return Err(FrameError::UnknownKind(code));
        }
        let limit_bytes = kind.map_or(CONTROL_BODY_BYTES_MAX, FrameKind::body_bytes_max);
        if body_bytes as usize > limit_bytes {
            return Err(FrameError::TooLong { kind: code, body_bytes, limit_bytes });
        }
        Ok(Self { kind, body_bytes, flags })
    }

    /// The header of a frame of `kind` with `body_bytes` of body and no flags.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when the kind may not be that long.
    pub fn encode(
        kind: FrameKind,
        body_bytes: usize,
    ) -> Result<[u8; FRAME_HEADER_BYTES], FrameError> {
        let claimed = u32::try_from(body_bytes).unwrap_or(u32::MAX);
        let limit_bytes = kind.body_bytes_max();
        if body_bytes > limit_bytes {
            let kind = kind.code();
            return Err(FrameError::TooLong { kind, body_bytes: claimed, limit_bytes });
        }
        let [l0, l1, l2, l3] = claimed.to_be_bytes();
        Ok([l0, l1, l2, l3, kind.code(), FRAME_VERSION, 0, 0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_header_has_these_bytes() {
        let bytes = FrameHeader::encode(FrameKind::Produce, 0x0001_0203).unwrap();
        assert_eq!(bytes, [0, 1, 2, 3, 7, 1, 0, 0]);
    }

    #[test]
    fn every_kind_reads_back() {
        for (kind, code) in FrameKind::ALL.iter().zip(1..) {
            assert_eq!(kind.code(), code);
            let header = FrameHeader::decode(FrameHeader::encode(*kind, 9).unwrap()).unwrap();
            assert_eq!(header, FrameHeader { kind: Some(*kind), body_bytes: 9, flags: 0 });
        }
    }

    #[test]
    fn each_kind_has_its_limit_in_both_directions() {
        for kind in FrameKind::ALL {
            let limit = kind.body_bytes_max();
            let mut bytes = FrameHeader::encode(*kind, limit).unwrap();
            assert!(FrameHeader::decode(bytes).is_ok());
            assert!(FrameHeader::encode(*kind, limit + 1).is_err());
            bytes[..4].copy_from_slice(&u32::try_from(limit + 1).unwrap().to_be_bytes());
            assert!(matches!(FrameHeader::decode(bytes), Err(FrameError::TooLong { .. })));
        }
    }

    #[test]
    fn an_unknown_kind_passes_only_when_it_may_be_skipped() {
        let refused = FrameHeader::decode([0, 0, 0, 1, 200, 1, 0, 0]);
        assert_eq!(refused, Err(FrameError::UnknownKind(200)));
        let skipped = FrameHeader::decode([0, 0, 0, 1, 200, 1, 0, 1]).unwrap();
        assert_eq!(skipped, FrameHeader { kind: None, body_bytes: 1, flags: FLAG_SKIPPABLE });
        let long = FrameHeader::decode([0xff, 0, 0, 1, 200, 1, 0, 1]);
        assert!(matches!(long, Err(FrameError::TooLong { kind: 200, .. })));
    }

    #[test]
    fn another_version_is_refused() {
        let refused = FrameHeader::decode([0, 0, 0, 1, 3, 2, 0, 0]);
        assert_eq!(refused, Err(FrameError::UnknownVersion(2)));
    }

    proptest! {
        #[test]
        fn any_eight_bytes_are_read_or_refused(bytes: [u8; 8]) {
            if let Ok(header) = FrameHeader::decode(bytes) {
                prop_assert!(header.body_bytes as usize <= FRAME_BODY_BYTES_MAX);
            }
        }
    }
}
