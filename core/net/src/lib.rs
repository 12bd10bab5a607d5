//! The native protocol over QUIC: the front that calls a [`Service`](millstream_service::Service),
//! and the client side that the client crate is built on. The only home of quinn, rustls and rcgen;
//! their types do not leave it. `docs/protocol.md` specifies what is said here.
//!
//! | module | what it promises |
//! |---|---|
//! | [`tls`] | the cluster's authority, certificates, and who trusts whom |
//! | [`transport`] | every QUIC setting in one place, with its reason |
//! | [`server`] | one task for a connection, one for a stream; bounded memory; graceful end |
//! | [`client`] | connections, calls, produce streams, subscriptions |
//! | [`counters`] | what operators see of it |

pub mod client;
pub mod counters;
mod endpoint;
mod frames;
mod memory;
pub mod server;
pub mod tls;
pub mod transport;
mod windows;

#[cfg(fuzzing)]
pub use frames::fuzz::fuzz as fuzz_frames;

pub use client::{
    AckReceiver, BatchReceiver, CallError, CloseReason, ConnectError, Connection, Connector,
    ConnectorConfig, ProduceSender, Received, StreamError,
};
pub use counters::Counters;
pub use millstream_service::ServiceError;
pub use server::{BindError, ResetKey, Server, ServerConfig};
pub use tls::{Authority, ClientAuth, ClientTls, Identity, ServerTls, TlsError};
pub use transport::TransportOptions;

/// Application error codes of QUIC's CONNECTION_CLOSE, RESET_STREAM and STOP_SENDING.
pub mod close_code {
    /// Nothing is wrong: the work is done, or its outcome no longer matters.
    pub const DONE: u32 = 0;
    /// The broker is shutting down.
    pub const SHUTTING_DOWN: u32 = 1;
    /// The peer broke the protocol.
    pub const PROTOCOL: u32 = 2;
    /// The peer did not say Hello in time.
    pub const HELLO_TIMEOUT: u32 = 3;
    /// Hello was refused; its reply says why.
    pub const HELLO_REFUSED: u32 = 4;
    /// Others waited too long for memory that a subscription's unacknowledged bytes held, or a
    /// client did not take its reply in time.
    pub const TOO_SLOW: u32 = 5;
}
