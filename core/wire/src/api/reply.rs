//! Replies: a status, then the fields of what was asked for when the status is success.

use bytes::BytesMut;

use super::codec::{DecodeError, Decoder, EncodeError, Encoder, FrameBody, encode_with};
use super::common::{ServiceError, put_status, take_status};
use crate::frame::FrameKind;

/// The fields of a successful reply.
pub(crate) trait ReplyBody: Sized {
    const KIND: FrameKind;
    fn put_fields(&self, out: &mut Encoder<'_>);
    fn take_fields(input: &mut Decoder<'_>) -> Result<Self, DecodeError>;
}

/// A frame that answers another: what was asked for, or why not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply<T>(pub Result<T, ServiceError>);

impl<T: ReplyBody> FrameBody for Reply<T> {
    const KIND: FrameKind = T::KIND;

    fn write_body(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_with(out, |out| {
            put_status(out, self.0.as_ref().err());
            if let Ok(fields) = &self.0 {
                fields.put_fields(out);
            }
        })
    }

    fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(body);
        match take_status(&mut input)? {
            Some(error) => Ok(Self(Err(error))),
            None => Ok(Self(Ok(T::take_fields(&mut input)?))),
        }
    }
}
