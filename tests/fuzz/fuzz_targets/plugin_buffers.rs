//! What plugins answer, and what they are given: packed buffers in any order of bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_plugin_abi::{
    Hot, Input, Keys, Lengths, Output, Rules, Verdict, VerdictSet, resolved_bytes,
};

fuzz_target!(|data: &[u8]| {
    let [kind, records, outputs, verdicts, buffer @ ..] = data else { return };
    match kind % 4 {
        0 => output(buffer, *records, *outputs, *verdicts),
        1 => input(buffer),
        2 => {
            if let Ok(keys) = Keys::read(buffer) {
                assert_eq!(keys.iter().count(), keys.count() as usize);
            }
        }
        _ => {
            if let Ok(hot) = Hot::read(buffer) {
                assert_eq!(hot.iter().count(), hot.count() as usize);
            }
        }
    }
});

fn output(buffer: &[u8], records: u8, outputs: u8, verdicts: u8) {
    let rules = Rules {
        records: u32::from(records),
        outputs: outputs.max(1),
        verdicts: VerdictSet::from_bits(verdicts & 0x7f).unwrap_or_default(),
        bytes_max: 64 * 1024,
    };
    let Ok(output) = Output::read(buffer, &rules) else { return };
    let again = Output::reopen(buffer, rules.records).expect("it was read");
    assert_eq!(again.verdicts().count(), usize::from(records));
    let mut taken = 0;
    for verdict in output.verdicts() {
        taken += match verdict {
            Verdict::Keep { output } => {
                assert!(output < rules.outputs);
                0
            }
            Verdict::Drop => 0,
            Verdict::ReplaceValue { value, .. } => value.map_or(0, <[u8]>::len),
            Verdict::ReplaceRecord(record) => record.headers.map_or(0, |all| all.iter().count()),
            Verdict::Emit(emitted) => {
                let left = emitted.len();
                assert_eq!(emitted.count(), left, "what was checked can be walked");
                left
            }
            Verdict::DeadLetter { reason } | Verdict::Reject { reason } => reason.len(),
        };
    }
    assert!(taken <= buffer.len(), "no part is counted twice");
    let lengths = Lengths { key: 1, value: 1, headers: 1 };
    let _bytes = resolved_bytes(&output, (0..records).map(|_| lengths));
}

fn input(buffer: &[u8]) {
    let Ok(input) = Input::read(buffer) else { return };
    let count = input.count();
    assert_eq!(input.records().count(), count as usize);
    let mut part = Vec::new();
    let middle = count / 2;
    let cut = Input::read(input.cut(middle..count, &mut part)).expect("a part of what is sound");
    let offsets = |input: &Input<'_>, skip: u32| -> Vec<i64> {
        input.records().skip(skip as usize).map(|record| record.offset).collect()
    };
    assert_eq!(offsets(&cut, 0), offsets(&input, middle));
}
