//! What can go wrong on the client's side, and whether trying again may help.

use std::io;
use std::time::Duration;

use millstream_service::ServiceError;
use millstream_types::ErrorCode;
use quinn::{ConnectionError, ReadError, WriteError};
use thiserror::Error;

use crate::close_code;
use crate::frames::ReadFrameError;
use crate::tls::TlsError;

/// Why a connection is over.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CloseReason {
    /// This side closed it.
    #[error("closed here")]
    Here,
    /// The broker is shutting down; another may serve.
    #[error("the broker is shutting down")]
    ShuttingDown,
    /// Nothing was heard from the broker for the idle timeout.
    #[error("the broker does not answer")]
    Silent,
    /// The broker, or whoever has its address now, does not know the connection: it restarted.
    #[error("the broker restarted")]
    Restarted,
    /// The broker closed it for a reason of its own.
    #[error("the broker closed the connection: {reason} (code {code})")]
    Broker {
        /// One of [`close_code`].
        code: u64,
        /// For people.
        reason: String,
    },
    /// One side proved unacceptable to the other.
    #[error("{0}")]
    Tls(String),
    /// QUIC failed otherwise.
    #[error("the connection failed: {0}")]
    Transport(String),
}

/// QUIC reports TLS alerts as transport errors from here on (RFC 9001, section 4.8).
const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;
/// The alert of a server that wants a certificate.
const CERTIFICATE_REQUIRED: u64 = 0x100 + 116;
/// The alert of a peer that does not know the certificate's authority.
const UNKNOWN_CA: u64 = 0x100 + 48;
/// The alert of peers without a protocol in common.
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

impl From<ConnectionError> for CloseReason {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::LocallyClosed => Self::Here,
            ConnectionError::TimedOut => Self::Silent,
            ConnectionError::Reset => Self::Restarted,
            ConnectionError::ApplicationClosed(close) => {
                let code = close.error_code.into_inner();
                if code == u64::from(close_code::SHUTTING_DOWN) {
                    return Self::ShuttingDown;
                }
                let reason = String::from_utf8_lossy(&close.reason).into_owned();
                Self::Broker { code, reason }
            }
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                let reason = String::from_utf8_lossy(&close.reason).into_owned();
                if TLS_ALERTS.contains(&code) {
                    return Self::Tls(remote_alert(code, &reason));
                }
                Self::Transport(close.to_string())
            }
            ConnectionError::TransportError(error) => {
                if TLS_ALERTS.contains(&u64::from(error.code)) {
                    return Self::Tls(format!("the broker is not trusted: {}", error.reason));
                }
                Self::Transport(error.to_string())
            }
            other @ (ConnectionError::VersionMismatch | ConnectionError::CidsExhausted) => {
                Self::Transport(other.to_string())
            }
        }
    }
}

fn remote_alert(code: u64, reason: &str) -> String {
    match code {
        CERTIFICATE_REQUIRED => "the broker requires a client certificate".to_owned(),
        UNKNOWN_CA => "the broker does not trust this client's certificate".to_owned(),
        NO_APPLICATION_PROTOCOL => "the peer does not speak millstream/1".to_owned(),
        _ => format!("the broker refused the TLS handshake: {reason} (code {code:#x})"),
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The endpoint is not `host:port`.
    #[error("{0:?} is not host:port")]
    BadEndpoint(String),
    /// The host has no address.
    #[error("{endpoint}: {source}")]
    Resolve {
        /// What was asked for.
        endpoint: String,
        /// What the system says.
        source: io::Error,
    },
    /// Certificates or keys of this side are unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No socket can be opened.
    #[error("no UDP socket: {0}")]
    Socket(io::Error),
    /// One side's certificate proved unacceptable to the other.
    #[error("{endpoint}: {detail}")]
    Untrusted {
        /// What was asked for.
        endpoint: String,
        /// Who does not trust whom, and why.
        detail: String,
    },
    /// The broker turned Hello down.
    #[error("{endpoint}: {error}")]
    Refused {
        /// What was asked for.
        endpoint: String,
        /// Why.
        error: ServiceError,
    },
    /// Nobody answered in time.
    #[error("{endpoint}: no answer within {} ms", .timeout.as_millis())]
    Timeout {
        /// What was asked for.
        endpoint: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The connection was lost before Hello was answered.
    #[error("{endpoint}: {reason}")]
    Lost {
        /// What was asked for.
        endpoint: String,
        /// Why.
        reason: CloseReason,
    },
    /// The peer does not speak the protocol.
    #[error("{endpoint}: {detail}")]
    Protocol {
        /// What was asked for.
        endpoint: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl ConnectError {
    /// Whether the same attempt may succeed later.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Socket(_) | Self::Timeout { .. } | Self::Lost { .. } => {
                true
            }
            Self::Refused { error, .. } => error.is_retriable(),
            Self::BadEndpoint(_)
            | Self::Tls(_)
            | Self::Untrusted { .. }
            | Self::Protocol { .. } => false,
        }
    }
}

/// Why a call has no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CallError {
    /// The broker says why.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The connection is over. Whether the call happened is unknown.
    #[error("connection lost: {0}")]
    ConnectionLost(CloseReason),
    /// No answer in time. Whether the call happened is unknown.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The broker, or this side, broke the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
}

impl CallError {
    /// Whether the same call may succeed later, perhaps at another broker.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Service(error) => error.is_retriable(),
            Self::ConnectionLost(_) | Self::Timeout(_) => true,
            Self::Protocol(_) => false,
        }
    }
}

/// Why a produce stream is over.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StreamError {
    /// The broker ended it and says why. Batches without acknowledgement may be stored or not.
    #[error(transparent)]
    Ended(#[from] ServiceError),
    /// The connection is over. Batches without acknowledgement may be stored or not.
    #[error("connection lost: {0}")]
    ConnectionLost(CloseReason),
    /// The broker takes no more batches; the acknowledgements' side says why.
    #[error("the broker stopped reading (code {0})")]
    Stopped(u64),
    /// The broker, or this side, broke the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
}

impl StreamError {
    /// Whether a new stream may succeed, perhaps at another broker.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Ended(error) => error.is_retriable(),
            Self::ConnectionLost(_) | Self::Stopped(_) => true,
            Self::Protocol(_) => false,
        }
    }
}

impl From<StreamError> for CallError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Ended(error) => Self::Service(error),
            StreamError::ConnectionLost(reason) => Self::ConnectionLost(reason),
            StreamError::Stopped(code) => Self::Protocol(format!("stopped with code {code}")),
            StreamError::Protocol(detail) => Self::Protocol(detail),
        }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(code.into_inner()),
            WriteError::ConnectionLost(error) => Self::ConnectionLost(error.into()),
            other @ (WriteError::ClosedStream | WriteError::ZeroRttRejected) => {
                Self::Protocol(other.to_string())
            }
        }
    }
}

impl From<ReadFrameError> for StreamError {
    fn from(error: ReadFrameError) -> Self {
        match error {
            ReadFrameError::Lost(ReadError::ConnectionLost(error)) => {
                Self::ConnectionLost(error.into())
            }
            ReadFrameError::Lost(ReadError::Reset(code))
                if code == close_code::SHUTTING_DOWN.into() =>
            {
                let message = "the broker is shutting down";
                Self::Ended(ServiceError::new(ErrorCode::Unavailable, message))
            }
            ReadFrameError::Lost(ReadError::Reset(code)) if code == close_code::TOO_SLOW.into() => {
                let message = "batches arrived too slowly while others waited for memory";
                Self::Ended(ServiceError::new(ErrorCode::Unavailable, message))
            }
            other => Self::Protocol(other.to_string()),
        }
    }
}
