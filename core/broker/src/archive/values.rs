//! The typed columns that a topic's config asks for, as its archive has them.

use millstream_meta::{
    ColumnType, DECLARED_COLUMNS_MAX, DECLARED_KEY_BYTES_MAX, DeclaredColumn, TopicConfig,
    ValueFormat,
};
use millstream_tiered::{
    NewColumns, VALUE_COLUMNS_MAX, VALUE_KEY_BYTES_MAX, ValueColumn, ValueColumns, ValueType,
};
use millstream_types::PartitionIndex;

// What may be declared is what can be had.
const _: () = assert!(DECLARED_COLUMNS_MAX == VALUE_COLUMNS_MAX);
const _: () = assert!(DECLARED_KEY_BYTES_MAX == VALUE_KEY_BYTES_MAX);

/// What a topic asks for.
#[derive(Debug)]
pub(super) struct TypedValues {
    declared: Vec<ValueColumn>,
}

/// What a topic asks for; `None` without typed columns.
pub(super) fn of(config: &TopicConfig) -> Option<TypedValues> {
    match config.archive_value_format {
        ValueFormat::None => None,
        ValueFormat::Json => {
            let declared = config.archive_value_columns.as_slice().iter().map(column).collect();
            Some(TypedValues { declared })
        }
    }
}

impl TypedValues {
    /// Adds what is declared to what a partition has, and tells where others come from.
    pub(super) fn add_to(&self, known: &mut ValueColumns, partition: PartitionIndex) -> NewColumns {
        if self.declared.is_empty() {
            return NewColumns::Inferred;
        }
        let refused = known.declare(&self.declared);
        if !refused.is_empty() {
            tracing::warn!(%partition, keys = ?refused,
                "declared columns are left out: the partition has as many as it can, or one of \
                 nearly that name");
        }
        NewColumns::None
    }
}

fn column(declared: &DeclaredColumn) -> ValueColumn {
    let value_type = match declared.column_type {
        ColumnType::Boolean => ValueType::Boolean,
        ColumnType::Bigint => ValueType::Bigint,
        ColumnType::Double => ValueType::Double,
        ColumnType::Varchar => ValueType::Varchar,
    };
    ValueColumn { key: declared.key.clone(), value_type }
}
