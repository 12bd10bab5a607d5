//! The front and its client over real QUIC on loopback, with a service in memory behind them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails in a helper fails its test"
)]

mod common;
mod floods;
mod hostile;
mod loopback;
mod replies;
mod slow;
