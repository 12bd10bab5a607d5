//! Typed columns beside the raw values of records that are JSON objects.
//!
//! Which columns there are is declared, or inferred: the first row group of a range adds those of
//! its keys that have none yet. A column that is there keeps its place and its type for good, since
//! the schema is carried from range to range; a value that does not fit it reads null, and is
//! counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_array::cast::AsArray as _;
use arrow_array::{ArrayRef, BinaryViewArray, RecordBatch};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};

use crate::error::EncodeError;
use crate::json::{Object, unquote};
use crate::schema;

/// Typed columns of a partition, at most: each costs a footer some hundred bytes a row group.
pub const VALUE_COLUMNS_MAX: usize = 64;
/// The longest key that becomes a column.
pub const VALUE_KEY_BYTES_MAX: usize = 128;
/// Before a key that is a name of the archive's own.
const PREFIX: &str = "json_";

/// What a typed column holds, under SQL's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// `true` and `false`.
    Boolean,
    /// Whole numbers of 64 bits.
    Bigint,
    /// Other numbers.
    Double,
    /// Text; of what is no string, its JSON.
    Varchar,
}

/// One typed column.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ValueColumn {
    /// The key in the objects' top level.
    pub key: String,
    /// What it holds.
    #[serde(rename = "type")]
    pub value_type: ValueType,
}

/// The typed columns of a partition as far as they are known, in the order of their field ids.
/// Ranges only ever add to them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ValueColumns {
    columns: Vec<ValueColumn>,
    by_key: BTreeMap<String, usize>,
    /// In lower case: SQL tells names of different case not apart.
    names: BTreeSet<String>,
}

impl ValueColumns {
    /// `None` if no archive would have these: too many, or names that are taken or too long.
    #[must_use]
    pub fn new(columns: Vec<ValueColumn>) -> Option<Self> {
        let mut all = Self::default();
        for ValueColumn { key, value_type } in columns {
            if all.by_key.contains_key(&key) {
                return None;
            }
            all.add(&key, value_type)?;
        }
        Some(all)
    }

    /// The columns, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[ValueColumn] {
        &self.columns
    }

    /// Adds what of `declared` is not there yet. Columns that are there keep their types. Returns
    /// the keys that cannot have a column.
    pub fn declare(&mut self, declared: &[ValueColumn]) -> Vec<String> {
        let mut refused = Vec::new();
        for ValueColumn { key, value_type } in declared {
            if !self.by_key.contains_key(key) && self.add(key, *value_type).is_none() {
                refused.push(key.clone());
            }
        }
        refused
    }

    /// Adds a column, and tells its place; `None` if it cannot be one.
    fn add(&mut self, key: &str, value_type: ValueType) -> Option<usize> {
        let at = self.columns.len();
        let fits = at < VALUE_COLUMNS_MAX && key.len() <= VALUE_KEY_BYTES_MAX;
        if !fits || key.is_empty() || key.chars().any(char::is_control) {
            return None;
        }
        if !self.names.insert(column_name(key).to_ascii_lowercase()) {
            return None;
        }
        self.columns.push(ValueColumn { key: key.to_owned(), value_type });
        self.by_key.insert(key.to_owned(), at);
        Some(at)
    }

    /// The column of a key that was seen with `raw`, added where there is none. Columns from
    /// `fixed` on are in no object yet: their type still widens.
    fn observe(&mut self, key: &str, raw: &str, fixed: usize) -> Option<usize> {
        let Some(at) = self.by_key.get(key).copied() else {
            return self.add(key, type_of(raw)?);
        };
        if at >= fixed
            && let (Some(column), Some(seen)) = (self.columns.get_mut(at), type_of(raw))
        {
            column.value_type = widened(column.value_type, seen);
        }
        Some(at)
    }
}

/// What the column of a key is called.
pub(crate) fn column_name(key: &str) -> String {
    let is_taken = schema::FIXED.iter().any(|fixed| fixed.eq_ignore_ascii_case(key));
    if is_taken { format!("{PREFIX}{key}") } else { key.to_owned() }
}

/// A type's Arrow type.
pub(crate) const fn data_type(value_type: ValueType) -> DataType {
    match value_type {
        ValueType::Boolean => DataType::Boolean,
        ValueType::Bigint => DataType::Int64,
        ValueType::Double => DataType::Float64,
        ValueType::Varchar => DataType::Utf8,
    }
}

/// The narrowest type of a value as it is written; `None` for null, which has none.
fn type_of(raw: &str) -> Option<ValueType> {
    Some(match raw.as_bytes().first()? {
        b'n' => return None,
        b't' | b'f' => ValueType::Boolean,
        b'"' | b'{' | b'[' => ValueType::Varchar,
        _ if raw.parse::<i64>().is_ok() => ValueType::Bigint,
        _ => ValueType::Double,
    })
}

/// The narrowest type that takes the values of both.
const fn widened(one: ValueType, other: ValueType) -> ValueType {
    use ValueType::{Bigint, Boolean, Double, Varchar};
    match (one, other) {
        (Boolean, Boolean) => Boolean,
        (Bigint, Bigint) => Bigint,
        (Bigint | Double, Bigint | Double) => Double,
        _ => Varchar,
    }
}

/// Where new columns come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewColumns {
    /// From the records.
    Inferred,
    /// From nowhere: those that are known are all.
    None,
}

/// Fills the typed columns of one object.
#[derive(Debug)]
pub(crate) struct Values {
    known: ValueColumns,
    new: NewColumns,
    /// How many of them the object has: those that were known with its first row group.
    written: Option<usize>,
    unfit: u64,
}

impl Values {
    pub(crate) const fn new(known: ValueColumns, new: NewColumns) -> Self {
        Self { known, new, written: None, unfit: 0 }
    }

    /// The columns that are known by now; the next range begins with them.
    pub(crate) const fn known(&self) -> &ValueColumns {
        &self.known
    }

    /// Records of whose value something is in no column that it should be in.
    pub(crate) const fn unfit(&self) -> u64 {
        self.unfit
    }

    /// The columns that the object has. Settled by the first call.
    pub(crate) fn written(&mut self) -> &[ValueColumn] {
        let written = *self.written.get_or_insert(self.known.columns.len());
        self.known.columns.get(..written).unwrap_or_default()
    }

    /// A row group's rows with the typed columns behind.
    pub(crate) fn beside(&mut self, rows: &RecordBatch) -> Result<RecordBatch, EncodeError> {
        let mut columns = rows.columns().to_vec();
        let values = rows.column_by_name(schema::VALUE).and_then(|c| c.as_binary_view_opt());
        if let Some(values) = values {
            if self.written.is_none() && self.new == NewColumns::Inferred {
                self.infer(values);
            }
            columns.extend(self.fill(values));
        }
        Ok(RecordBatch::try_new(schema::schema(self.written()), columns)?)
    }

    fn infer(&mut self, values: &BinaryViewArray) {
        let carried = self.known.columns.len();
        for object in values.iter().flatten().filter_map(Object::parse) {
            for (key, raw) in object.fields() {
                if let Some(key) = unquote(key) {
                    self.known.observe(&key, raw, carried);
                }
            }
        }
    }

    fn fill(&mut self, values: &BinaryViewArray) -> Vec<ArrayRef> {
        let mut builders: Vec<_> =
            self.written().iter().map(|column| Builder::new(column.value_type)).collect();
        let written = builders.len();
        let mut found: Vec<Option<&str>> = vec![None; written];
        for value in values {
            found.fill(None);
            let object = value.and_then(Object::parse);
            for (key, raw) in object.into_iter().flat_map(Object::fields) {
                let key = unquote(key);
                let at = key.and_then(|key| match self.new {
                    NewColumns::Inferred => self.known.observe(&key, raw, written),
                    NewColumns::None => self.known.by_key.get(&*key).copied(),
                });
                // Of a key that comes twice the last counts, as to most parsers.
                if let Some(place) = at.and_then(|at| found.get_mut(at)) {
                    *place = Some(raw);
                }
            }
            let mut fits = value.is_none() || object.is_some();
            for (builder, raw) in builders.iter_mut().zip(&found) {
                fits &= builder.append(*raw);
            }
            self.unfit += u64::from(!fits);
        }
        builders.into_iter().map(Builder::finish).collect()
    }
}

#[derive(Debug)]
enum Builder {
    Boolean(BooleanBuilder),
    Bigint(Int64Builder),
    Double(Float64Builder),
    Varchar(StringBuilder),
}

impl Builder {
    fn new(value_type: ValueType) -> Self {
        match value_type {
            ValueType::Boolean => Self::Boolean(BooleanBuilder::new()),
            ValueType::Bigint => Self::Bigint(Int64Builder::new()),
            ValueType::Double => Self::Double(Float64Builder::new()),
            ValueType::Varchar => Self::Varchar(StringBuilder::new()),
        }
    }

    /// Appends a value as it is written, or null; false for a value that became null.
    fn append(&mut self, raw: Option<&str>) -> bool {
        let raw = raw.filter(|raw| *raw != "null");
        let is_some = match self {
            Self::Boolean(to) => {
                let value = raw.and_then(|raw| raw.parse::<bool>().ok());
                to.append_option(value);
                value.is_some()
            }
            Self::Bigint(to) => {
                let value = raw.and_then(|raw| raw.parse::<i64>().ok());
                to.append_option(value);
                value.is_some()
            }
            Self::Double(to) => {
                // Rust reads words that JSON does not have; none is left that is finite.
                let value = raw.and_then(|raw| raw.parse::<f64>().ok());
                let value = value.filter(|value| value.is_finite());
                to.append_option(value);
                value.is_some()
            }
            Self::Varchar(to) => {
                let is_string = |raw: &&str| raw.starts_with('"');
                let text = raw.filter(is_string).map(unquote);
                let text = text.unwrap_or_else(|| raw.map(Into::into));
                to.append_option(text.as_deref());
                text.is_some()
            }
        };
        is_some || raw.is_none()
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Boolean(mut builder) => Arc::new(builder.finish()),
            Self::Bigint(mut builder) => Arc::new(builder.finish()),
            Self::Double(mut builder) => Arc::new(builder.finish()),
            Self::Varchar(mut builder) => Arc::new(builder.finish()),
        }
    }
}

#[cfg(test)]
mod tests;
