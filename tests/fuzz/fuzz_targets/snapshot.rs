//! The metadata's snapshot file, and the state machine's part of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_meta::MetaMachine;

fuzz_target!(|data: &[u8]| {
    let Some((fit, bytes)) = data.split_first() else { return };
    let Some(state) = millstream_quorum::fuzz_snapshot(fit % 2 == 1, bytes) else { return };
    let Ok(machine) = MetaMachine::from_snapshot(&state) else { return };
    machine.state().check().expect("a snapshot that reads keeps the invariants");
});
