//! What the quorum keeps of the metadata: commands and snapshots, both JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_meta::{Command, MetaMachine};

fuzz_target!(|data: &[u8]| {
    if let Ok(mut machine) = MetaMachine::from_snapshot(data) {
        machine.state().check().expect("a snapshot that reads keeps the invariants");
        let bytes = machine.to_snapshot().expect("what was read is written");
        machine = MetaMachine::from_snapshot(&bytes).expect("what was written is read");
        assert_eq!(machine.to_snapshot().expect("and written the same"), bytes);
    }
    if let Ok(command) = serde_json::from_slice::<Command>(data) {
        let mut machine = MetaMachine::new();
        let first = machine.apply(command.clone());
        machine.state().check().expect("a command keeps the invariants");
        assert_eq!(machine.apply(command), first, "a command that comes again changes nothing");
    }
});
