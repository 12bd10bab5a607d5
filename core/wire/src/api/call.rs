//! Unary calls: one request and one response on a stream of their own.

use bytes::{Bytes, BytesMut};
use millstream_types::ErrorCode;
use thiserror::Error;

use super::archive::{
    ArchiveStatusRequest, ArchiveStatusResponse, ArchivedTopicsRequest, ArchivedTopicsResponse,
    RestoreTopicRequest, RestoreTopicResponse, VerifyArchiveRequest, VerifyArchiveResponse,
};
use super::cluster::{
    BrokerStatusRequest, BrokerStatusResponse, InitProducerRequest, InitProducerResponse,
    ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
};
use super::codec::{DecodeError, Decoder, EncodeError, Encoder, append_frame_with, encode_with};
use super::common::{ServiceError, TraceId, put_status, take_status};
use super::topics::{
    AlterTopicRequest, AlterTopicResponse, CreateTopicRequest, CreateTopicResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeTopicsRequest, DescribeTopicsResponse,
};
use crate::frame::FrameKind;

/// The version of every API's bodies so far.
pub const API_VERSION: u16 = 1;

/// Declares the APIs once: number, request and response.
macro_rules! apis {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $request:ident, $response:ident;)*) => {
        /// Which unary API a request is for.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum ApiKey { $($(#[$doc])* $name = $key,)* }

        impl ApiKey {
            /// Every API, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u16 { self as u16 }

            /// From the number on the wire; `None` for one that this build does not know.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($key => Some(Self::$name),)* _ => None }
            }
        }

        /// What a client asks for.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Request { $($(#[$doc])* $name($request),)* }

        /// What the broker answers; always of the request's API.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Response { $($(#[$doc])* $name($response),)* }

        impl Request {
            /// The request's API.
            #[must_use]
            pub const fn api(&self) -> ApiKey {
                match self { $(Self::$name(_) => ApiKey::$name,)* }
            }

            fn put(&self, out: &mut Encoder<'_>) {
                match self { $(Self::$name(request) => out.put(request),)* }
            }

            fn take(api: ApiKey, input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                match api { $(ApiKey::$name => Ok(Self::$name(input.take("request")?)),)* }
            }
        }

        impl Response {
            /// The response's API.
            #[must_use]
            pub const fn api(&self) -> ApiKey {
                match self { $(Self::$name(_) => ApiKey::$name,)* }
            }

            fn put(&self, out: &mut Encoder<'_>) {
                match self { $(Self::$name(response) => out.put(response),)* }
            }

            fn take(api: ApiKey, input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                match api { $(ApiKey::$name => Ok(Self::$name(input.take("response")?)),)* }
            }
        }

        $(
            impl From<$request> for Request {
                fn from(request: $request) -> Self { Self::$name(request) }
            }

            impl From<$response> for Response {
                fn from(response: $response) -> Self { Self::$name(response) }
            }
        )*
    };
}

apis! {
    /// Where topics and partitions are.
    Metadata = 1, MetadataRequest, MetadataResponse;
    /// Creates a topic.
    CreateTopic = 2, CreateTopicRequest, CreateTopicResponse;
    /// Deletes a topic.
    DeleteTopic = 3, DeleteTopicRequest, DeleteTopicResponse;
    /// Changes a topic.
    AlterTopic = 4, AlterTopicRequest, AlterTopicResponse;
    /// Settings and sizes of topics.
    DescribeTopics = 5, DescribeTopicsRequest, DescribeTopicsResponse;
    /// Offsets of partitions.
    ListOffsets = 6, ListOffsetsRequest, ListOffsetsResponse;
    /// An idempotent producer's identity.
    InitProducer = 7, InitProducerRequest, InitProducerResponse;
    /// A broker's counters.
    BrokerStatus = 8, BrokerStatusRequest, BrokerStatusResponse;
    /// How far partitions are archived.
    ArchiveStatus = 9, ArchiveStatusRequest, ArchiveStatusResponse;
    /// A check of one archived range.
    VerifyArchive = 10, VerifyArchiveRequest, VerifyArchiveResponse;
    /// The topics that the archive's store holds.
    ArchivedTopics = 11, ArchivedTopicsRequest, ArchivedTopicsResponse;
    /// Makes a topic of what the store holds.
    RestoreTopic = 12, RestoreTopicRequest, RestoreTopicResponse;
}

/// Why a request's body cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RequestError {
    /// No such API, or not in that version.
    #[error("api {api} version {version} is not known here")]
    Unsupported {
        /// The API's number.
        api: u16,
        /// The version asked for.
        version: u16,
    },
    /// The API is known, but its request is malformed.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
}

impl From<RequestError> for ServiceError {
    fn from(error: RequestError) -> Self {
        let code = match error {
            RequestError::Unsupported { .. } => ErrorCode::UnsupportedVersion,
            RequestError::Malformed(_) => ErrorCode::InvalidRequest,
        };
        Self::new(code, error.to_string())
    }
}

/// A unary request with what every request carries.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    /// How long the client waits, in milliseconds from sending; 0 for no limit.
    pub deadline_ms: u32,
    /// Ties the request to what the client logged.
    pub trace: TraceId,
    /// What it asks for.
    pub request: Request,
}

impl Call {
    /// Reads the body of a Request frame.
    ///
    /// # Errors
    /// [`RequestError`]; its conversion to [`ServiceError`] is what the client is told.
    pub fn from_body(body: &[u8]) -> Result<Self, RequestError> {
        let mut input = Decoder::new(body);
        let code: u16 = input.take("api key")?;
        let version: u16 = input.take("api version")?;
        let deadline_ms = input.take("deadline")?;
        let trace = input.take("trace id")?;
        let mut nested = input.nested("request")?;
        let api = ApiKey::from_code(code).filter(|_| version == API_VERSION);
        let Some(api) = api else {
            return Err(RequestError::Unsupported { api: code, version });
        };
        Ok(Self { deadline_ms, trace, request: Request::take(api, &mut nested)? })
    }
}

/// The whole Request frame. `deadline_ms` and `trace` are those of [`Call`].
///
/// # Errors
/// [`EncodeError`] when a field or the body is too long to be written.
pub fn request_frame(
    deadline_ms: u32,
    trace: TraceId,
    request: &Request,
) -> Result<Bytes, EncodeError> {
    let mut out = BytesMut::with_capacity(256);
    append_frame_with(FrameKind::Request, &mut out, |out| {
        encode_with(out, |out| {
            out.put(&request.api().code());
            out.put(&API_VERSION);
            out.put(&deadline_ms);
            out.put(&trace);
            out.nested(|out| request.put(out));
        })
    })?;
    Ok(out.freeze())
}

/// The whole Response frame.
///
/// # Errors
/// [`EncodeError`] when a field or the body is too long to be written.
pub fn response_frame(reply: &Result<Response, ServiceError>) -> Result<Bytes, EncodeError> {
    let mut out = BytesMut::with_capacity(256);
    append_frame_with(FrameKind::Response, &mut out, |out| {
        encode_with(out, |out| {
            put_status(out, reply.as_ref().err());
            out.nested(|out| {
                if let Ok(response) = reply {
                    response.put(out);
                }
            });
        })
    })?;
    Ok(out.freeze())
}

/// Reads the body of a Response frame to a request of `api`.
///
/// # Errors
/// [`DecodeError`], never a panic, whatever the bytes are.
pub fn read_response(
    api: ApiKey,
    body: &[u8],
) -> Result<Result<Response, ServiceError>, DecodeError> {
    let mut input = Decoder::new(body);
    if let Some(error) = take_status(&mut input)? {
        return Ok(Err(error));
    }
    let mut nested = input.nested("response")?;
    Ok(Ok(Response::take(api, &mut nested)?))
}
