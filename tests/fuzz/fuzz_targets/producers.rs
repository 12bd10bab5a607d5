//! The producers' snapshot in a sealed segment's footer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_replica::ProducerTable;

fuzz_target!(|data: &[u8]| {
    let Ok(table) = ProducerTable::from_snapshot(data) else { return };
    let bytes = table.to_snapshot();
    assert_eq!(ProducerTable::from_snapshot(&bytes).as_ref(), Ok(&table));
});
