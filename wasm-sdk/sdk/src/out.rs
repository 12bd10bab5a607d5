//! Where a transform says what becomes of a record.

use millstream_plugin_abi::{EmitWriter, NewRecord, OutputWriter, ValueWriter};

use crate::arena::Arena;
use crate::plugin::{Error, Result};

/// Takes the verdict on one record. A second verdict on the same record is an error.
#[derive(Debug)]
pub struct Out<'w, 'b> {
    writer: &'w mut OutputWriter<'b>,
    index: u32,
    arena: &'w Arena,
    on_produce: bool,
}

const JUDGED: Error = Error::text("the plugin gave one record two verdicts");

impl<'w, 'b> Out<'w, 'b> {
    pub(crate) fn new(
        writer: &'w mut OutputWriter<'b>,
        arena: &'w Arena,
        on_produce: bool,
    ) -> Out<'w, 'b> {
        let index = writer.judged();
        Out { writer, index, arena, on_produce }
    }

    /// Whether the record is being produced, and may be rejected.
    #[must_use]
    pub fn on_produce(&self) -> bool {
        self.on_produce
    }

    /// Memory until the end of the call.
    #[must_use]
    pub fn arena(&self) -> &'w Arena {
        self.arena
    }

    /// The record goes to the first output as it is.
    ///
    /// # Errors
    /// It has its verdict already.
    #[inline]
    pub fn keep(&mut self) -> Result {
        self.route(0)
    }

    /// The record goes to an output as it is.
    ///
    /// # Errors
    /// It has its verdict already.
    #[inline]
    pub fn route(&mut self, output: u8) -> Result {
        Ok(self.free()?.keep(output)?)
    }

    /// Nothing comes of the record.
    ///
    /// # Errors
    /// It has its verdict already.
    #[inline]
    pub fn drop(&mut self) -> Result {
        Ok(self.free()?.drop_record()?)
    }

    /// The record goes to the first output with another value; `None` is null.
    ///
    /// # Errors
    /// It has its verdict already.
    pub fn replace_value(&mut self, value: Option<&[u8]>) -> Result {
        Ok(self.free()?.replace_value(0, value)?)
    }

    /// As [`Out::replace_value`], with a value written piece by piece.
    ///
    /// # Errors
    /// The record has its verdict already.
    pub fn value(&mut self) -> Result<Value<'_, 'b>> {
        Ok(Value(self.free()?.value()))
    }

    /// Another record goes to the output that it names.
    ///
    /// # Errors
    /// The record has its verdict already, or a part is too long.
    pub fn replace(&mut self, record: NewRecord<'_>) -> Result {
        Ok(self.free()?.replace_record(record)?)
    }

    /// Begins any number of records that come instead of the record.
    ///
    /// # Errors
    /// The record has its verdict already.
    pub fn emit(&mut self) -> Result<Emit<'_, 'b>> {
        Ok(Emit(self.free()?.emit()))
    }

    /// The record goes to the dead-letter topic.
    ///
    /// # Errors
    /// It has its verdict already.
    pub fn dead_letter(&mut self, reason: &str) -> Result {
        Ok(self.free()?.dead_letter(reason)?)
    }

    /// The batch that is being produced is refused.
    ///
    /// # Errors
    /// The record has its verdict already.
    pub fn reject(&mut self, reason: &str) -> Result {
        Ok(self.free()?.reject(reason)?)
    }

    #[inline]
    fn free(&mut self) -> Result<&mut OutputWriter<'b>> {
        if self.writer.judged() == self.index { Ok(self.writer) } else { Err(JUDGED) }
    }
}

/// A value that is written piece by piece. Dropped without [`Value::finish`], it was never begun.
#[derive(Debug)]
pub struct Value<'w, 'b>(ValueWriter<'w, 'b>);

impl Value<'_, '_> {
    /// Appends to the value.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// The record goes to `output` with the value as it is now.
    ///
    /// # Errors
    /// The value is too long.
    pub fn finish(self, output: u8) -> Result {
        Ok(self.0.finish(output)?)
    }
}

/// Records that come of one. Dropped without [`Emit::finish`], they were never begun.
#[derive(Debug)]
pub struct Emit<'w, 'b>(EmitWriter<'w, 'b>);

impl Emit<'_, '_> {
    /// Adds a record.
    ///
    /// # Errors
    /// There are too many, or a part is too long.
    pub fn record(&mut self, record: NewRecord<'_>) -> Result {
        Ok(self.0.record(record)?)
    }

    /// The record becomes those that were added.
    ///
    /// # Errors
    /// They are too long.
    pub fn finish(self) -> Result {
        Ok(self.0.finish()?)
    }
}
