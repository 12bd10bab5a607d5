//! Record batches from outside the crate: golden bytes, round trips, hostile input, and the
//! `kafka-protocol` crate as a second opinion.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod golden;
mod hostile;
mod interop;
mod round_trip;
mod sample;
mod timing;
