//! A call, the same natively and as a guest.

use millstream_plugin_abi::{DEFAULT_PARTITION, Hot, Input, Keys, OutputWriter, VerdictSet};

use crate::arena::Arena;
use crate::out::Out;
use crate::plugin::{Error, Partitioner, Result, Transform};

const CUT_OFF: Error = Error::text("the batch is cut off");

/// Judges each record of `batch` into `output`.
pub(crate) fn apply<P: Transform>(
    plugin: &P,
    batch: &[u8],
    arena: &Arena,
    output: &mut Vec<u8>,
) -> Result {
    let input = Input::open(batch)?;
    let on_produce = input.flags().produce;
    let mut writer = OutputWriter::new(output, input.count());
    for record in input.records() {
        let before = writer.checkpoint();
        let mut out = Out::new(&mut writer, arena, on_produce);
        match plugin.record(&record, &mut out) {
            Ok(()) if writer.judged() == record.index => writer.keep(0)?,
            Ok(()) => {}
            Err(error) => {
                writer.restore(before);
                refuse::<P>(&mut writer, on_produce, &error)?;
            }
        }
    }
    if writer.judged() != input.count() {
        return Err(CUT_OFF);
    }
    let _written: &[u8] = writer.finish();
    Ok(())
}

/// What an error means for its record.
#[cold]
fn refuse<P: Transform>(writer: &mut OutputWriter<'_>, on_produce: bool, error: &Error) -> Result {
    let declared = P::MANIFEST.verdicts;
    if error.fails_call() {
        Err(error.clone())
    } else if declared.contains(VerdictSet::DEAD_LETTER) {
        Ok(writer.dead_letter(error.reason())?)
    } else if on_produce && declared.contains(VerdictSet::REJECT) {
        Ok(writer.reject(error.reason())?)
    } else {
        // The host finds the record and makes a dead letter of it, at its own price.
        Err(error.clone())
    }
}

/// Gives the plugin its hot keys.
pub(crate) fn hotlist<P: Partitioner>(plugin: &mut P, list: &[u8]) -> Result {
    plugin.hotlist(&Hot::read(list)?);
    Ok(())
}

/// Places each record of `keys` into `partitions`.
pub(crate) fn assign<P: Partitioner>(plugin: &P, keys: &[u8], partitions: &mut Vec<u32>) -> Result {
    let keys = Keys::open(keys)?;
    let count = keys.partitions();
    // No more than the buffer has bytes: `open` has seen to that.
    partitions.clear();
    partitions.resize(usize::try_from(keys.count())?, DEFAULT_PARTITION);
    let mut placed = 0;
    for (partition, key) in partitions.iter_mut().zip(keys) {
        *partition = plugin.assign(&key, count);
        placed += 1;
    }
    if placed == keys.count() { Ok(()) } else { Err(CUT_OFF) }
}
