//! What a row group's pages ask for, before Parquet decodes them.
//!
//! Parquet's reader takes a page's word for how large it becomes and for how many values a few
//! bytes of run lengths stand for, and copies a dictionary's entry for each: some forty bytes can
//! ask for gigabytes. Page headers are read here first, and held to what the archive's writer can
//! have written.

use std::ops::AddAssign;
use std::sync::Arc;

use millstream_types::limits::{BATCH_DECOMPRESSED_BYTES_MAX, RECORD_HEADERS_MAX};
use parquet::arrow::ProjectionMask;
use parquet::basic::Type;
use parquet::column::page::{Page, PageReader as _};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::ByteArrayType;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;

use crate::columns::HEADER_BYTES;
use crate::decode::{GROUP_BYTES_MAX, bounded};
use crate::encode::ROW_GROUP_BYTES_MAX;
use crate::error::FormatError;

/// Headers of the records of a row group: as many as fit the largest batch at two bytes each, and
/// the group before it.
const GROUP_HEADERS_MAX: usize =
    BATCH_DECOMPRESSED_BYTES_MAX / 2 + ROW_GROUP_BYTES_MAX / HEADER_BYTES;

const BYTES_MAX: u64 = GROUP_BYTES_MAX as u64;
/// Rows whose values are looked at together.
const MEASURED_ROWS: usize = 8 * 1024;

/// What pages ask for, together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Asked {
    bytes: u64,
    values: u64,
    dictionary: u64,
    dictionary_bytes: u64,
}

impl AddAssign for Asked {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.values = self.values.saturating_add(other.values);
        self.dictionary = self.dictionary.saturating_add(other.dictionary);
        self.dictionary_bytes = self.dictionary_bytes.saturating_add(other.dictionary_bytes);
    }
}

/// A column whose dictionary's entries may be repeated to more than a row group holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Repeated {
    /// Its place among the columns.
    pub(crate) column: usize,
    asked: Asked,
}

/// Holds the pages of a row group of `rows` rows to what any archive of ours can hold, in the
/// columns of `read`: nobody decodes the others. `bytes` are the row group's, and start at `start`
/// in the object. Returns the columns that [`measure`] is to look at, since their dictionaries'
/// entries may be repeated to more than that.
///
/// # Errors
/// [`FormatError::TooLarge`], and [`FormatError::Inconsistent`] for pages that cannot be read.
pub(crate) fn check(
    about: &RowGroupMetaData,
    read: &ProjectionMask,
    rows: usize,
    start: u64,
    bytes: &[u8],
) -> Result<Vec<Repeated>, FormatError> {
    let headers = rows.saturating_mul(RECORD_HEADERS_MAX).min(GROUP_HEADERS_MAX);
    let mut group = Asked::default();
    let mut repeated = Vec::new();
    let columns = about.columns().iter().enumerate();
    for (index, column) in columns.filter(|(index, _)| read.leaf_included(*index)) {
        bounded("bytes of a column", column.uncompressed_size(), GROUP_BYTES_MAX)?;
        let pages = within(column, start, bytes)
            .ok_or(FormatError::Inconsistent("a column outside of its row group"))?;
        let asked =
            asked_by(pages).ok_or(FormatError::Inconsistent("a page that cannot be read"))?;
        // A record without headers takes a place in their columns, too.
        let nested = column.column_descr().max_rep_level() > 0;
        let max = if nested { rows.saturating_add(headers) } else { rows } as u64;
        fits("values of a column", asked.values, max)?;
        fits("values of a dictionary", asked.dictionary, max)?;
        group += asked;
        fits("bytes of a row group", group.bytes, BYTES_MAX)?;
        let repeats = asked.dictionary_bytes.saturating_mul(asked.values);
        if column.column_type() == Type::BYTE_ARRAY && repeats > BYTES_MAX {
            repeated.push(Repeated { column: index, asked });
        }
    }
    Ok(repeated)
}

/// Holds a column to a row group's bytes by the lengths of its values: by the longest of its
/// dictionary where that is enough to tell, or by all of them. Here a value is a place in its
/// dictionary, where Arrow has a copy.
///
/// # Errors
/// [`FormatError::TooLarge`], and Parquet's.
pub(crate) fn measure<R: ChunkReader + 'static>(
    reader: R,
    column: &ColumnChunkMetaData,
    rows: usize,
    Repeated { asked, .. }: Repeated,
) -> Result<(), FormatError> {
    let reader = Arc::new(reader);
    let mut pages = SerializedPageReader::new(Arc::clone(&reader), column, rows, None)?;
    if let Some(Page::DictionaryPage { buf, .. }) = pages.get_next_page()?
        // There is no other dictionary behind it.
        && buf.len() as u64 == asked.dictionary_bytes
        && let Some(longest) = longest_entry(&buf)
        && longest.saturating_mul(asked.values).saturating_add(asked.bytes) <= BYTES_MAX
    {
        return Ok(());
    }
    let pages = SerializedPageReader::new(reader, column, rows, None)?;
    add_up(pages, column)
}

/// Of the values in a dictionary page, each behind its length.
fn longest_entry(mut page: &[u8]) -> Option<u64> {
    let mut longest = 0;
    while let Some((length, rest)) = page.split_first_chunk() {
        let length = u32::from_le_bytes(*length);
        page = rest.get(usize::try_from(length).ok()?..)?;
        longest = longest.max(length);
    }
    page.is_empty().then_some(u64::from(longest))
}

fn add_up<R: ChunkReader + 'static>(
    pages: SerializedPageReader<R>,
    column: &ColumnChunkMetaData,
) -> Result<(), FormatError> {
    let mut reader =
        ColumnReaderImpl::<ByteArrayType>::new(column.column_descr_ptr(), Box::new(pages));
    let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0_u64;
    loop {
        let (definitions_out, repetitions_out) = (Some(&mut definitions), Some(&mut repetitions));
        let (records, _, _) =
            reader.read_records(MEASURED_ROWS, definitions_out, repetitions_out, &mut values)?;
        let lengths = values.iter().map(|value| value.len() as u64);
        bytes = bytes.saturating_add(lengths.sum());
        fits("bytes of a column's values", bytes, BYTES_MAX)?;
        if records == 0 {
            return Ok(());
        }
        definitions.clear();
        repetitions.clear();
        values.clear();
    }
}

const fn fits(what: &'static str, actual: u64, max: u64) -> Result<(), FormatError> {
    if actual <= max { Ok(()) } else { Err(FormatError::TooLarge { what, actual, max }) }
}

/// A column's bytes, among those of its row group.
fn within<'a>(column: &ColumnChunkMetaData, start: u64, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let first = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let from = u64::try_from(first).ok()?.checked_sub(start)?;
    let from = usize::try_from(from).ok()?;
    let length = usize::try_from(column.compressed_size()).ok()?;
    bytes.get(from..from.checked_add(length)?)
}

fn asked_by(mut pages: &[u8]) -> Option<Asked> {
    let mut asked = Asked::default();
    while !pages.is_empty() {
        let mut reader = Compact(pages);
        let (page, stored) = reader.page_header()?;
        asked += page;
        pages = reader.0.get(stored..)?;
    }
    Some(asked)
}

/// Thrift's compact protocol, as far as page headers need it. Stricter than Parquet's own reader:
/// fields come in ascending order, none twice, so that both read the same.
struct Compact<'a>(&'a [u8]);

const I32: u8 = 5;
const STRUCT: u8 = 12;
/// The encoding in which a value says how much of the one before it begins with; the archive's
/// writer does not use it.
const DELTA_BYTE_ARRAY: u64 = 7;
/// Structs in a struct that are passed over: an index page's header, a data page's statistics.
const DEPTH_MAX: u8 = 1;

impl Compact<'_> {
    /// What the page asks for, and how many bytes of it follow.
    fn page_header(&mut self) -> Option<(Asked, usize)> {
        let mut asked = Asked::default();
        let (mut id, mut stored, mut is_dictionary) = (0, None, false);
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2, I32) => asked.bytes = self.size()?,
                (3, I32) => stored = Some(usize::try_from(self.size()?).ok()?),
                // Of a data page, a dictionary, and a data page of the second version.
                (5, STRUCT) => asked.values = self.values(2)?,
                (7, STRUCT) => (asked.dictionary, is_dictionary) = (self.values(2)?, true),
                (8, STRUCT) => asked.values = asked.values.saturating_add(self.values(4)?),
                (2 | 3 | 5 | 7 | 8, _) => return None,
                _ => self.skip(kind, DEPTH_MAX)?,
            }
        }
        if is_dictionary {
            asked.dictionary_bytes = asked.bytes;
        }
        Some((asked, stored?))
    }

    /// The number of values in a page's own header, whose encoding is its field `encoding`.
    fn values(&mut self, encoding: u8) -> Option<u64> {
        let (mut id, mut values) = (0, 0);
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (1, I32) => values = self.size()?,
                (at, I32) if at == encoding => {
                    _ = self.size().filter(|it| *it != DELTA_BYTE_ARRAY)?
                }
                (1, _) => return None,
                _ => self.skip(kind, DEPTH_MAX)?,
            }
        }
        Some(values)
    }

    /// The next field's type; `None` inside at the struct's end.
    #[expect(clippy::option_option, reason = "the outer one is `?`, the inner one the end")]
    fn field(&mut self, id: &mut u8) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        let (delta, kind) = (byte >> 4, byte & 0xf);
        *id = id.checked_add(delta).filter(|_| delta > 0)?;
        Some(Some(kind))
    }

    /// Passes over a value of a type that page headers have.
    fn skip(&mut self, kind: u8, depth: u8) -> Option<()> {
        match kind {
            1 | 2 => {}
            3 => _ = self.byte()?,
            4..=6 => _ = self.varint()?,
            7 => self.0 = self.0.get(8..)?,
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.0 = self.0.get(length..)?;
            }
            STRUCT if depth > 0 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth - 1)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// A number of 32 bits that is not negative.
    fn size(&mut self) -> Option<u64> {
        let zigzag = u32::try_from(self.varint()?).ok()?;
        (zigzag & 1 == 0).then_some(u64::from(zigzag >> 1))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use parquet::data_type::ByteArray;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    /// A data page of 36 values in three bytes that become 300.
    const PAGE: &[u8] = b"\x15\x00\x15\xd8\x04\x15\x06\
        \x2c\x15\x48\x15\x10\x15\x06\x15\x06\x1c\x18\x01x\x18\x01a\x00\x00\x00abc";

    #[test]
    fn pages_are_counted_together() {
        let one = Asked { bytes: 300, values: 36, ..Asked::default() };
        assert_eq!(asked_by(PAGE), Some(one));
        let two = Asked { bytes: 600, values: 72, ..Asked::default() };
        assert_eq!(asked_by(&[PAGE, PAGE].concat()), Some(two));
        assert_eq!(asked_by(b""), Some(Asked::default()));
        let dictionary = b"\x15\x04\x15\x08\x15\x02\x4c\x15\x0a\x15\x00\x12\x00\x00.";
        let asked = Asked { bytes: 4, values: 0, dictionary: 5, dictionary_bytes: 4 };
        assert_eq!(asked_by(dictionary), Some(asked));
    }

    /// A file of one column: `rows` times the same value, of which the dictionary has one.
    fn same(value_bytes: usize, rows: usize) -> Bytes {
        let schema = parse_message_type("message m { required binary key; }").unwrap();
        let mut writer =
            SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values = vec![ByteArray::from(vec![7; value_bytes]); rows];
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap().into()
    }

    #[test]
    fn a_dictionary_repeated_beyond_the_limit_is_refused_before_it_is_copied() {
        let rows = 600;
        for (value_bytes, too_large) in [(200 * 1024, false), (256 * 1024, true)] {
            let file = same(value_bytes, rows);
            assert!(file.len() < 2 * value_bytes, "one value, and little more");
            let read = SerializedFileReader::new(file.clone()).unwrap();
            let about = read.metadata().row_group(0);
            let repeated = check(about, &ProjectionMask::all(), rows, 0, &file).unwrap();
            assert_eq!(repeated.is_empty(), !too_large);
            for one in repeated {
                let refused = measure(file.clone(), about.column(one.column), rows, one);
                assert!(matches!(refused, Err(FormatError::TooLarge { .. })), "{refused:?}");
            }
        }
    }

    #[test]
    fn a_dictionary_is_measured_by_its_longest_entry_or_by_all_values() {
        let rows = 600;
        let file = same(1024, rows);
        let read = SerializedFileReader::new(file.clone()).unwrap();
        let about = read.metadata().row_group(0).column(0);
        let asked = asked_by(within(about, 0, &file).unwrap()).unwrap();
        assert_eq!((asked.dictionary, asked.dictionary_bytes, asked.values), (1, 4 + 1024, 600));
        for values in [asked.values, BYTES_MAX] {
            let asked = Asked { values, ..asked };
            measure(file.clone(), about, rows, Repeated { column: 0, asked }).unwrap();
        }
        assert_eq!(longest_entry(b"\x01\0\0\0a\x03\0\0\0abc\0\0\0\0"), Some(3));
        assert_eq!(longest_entry(b""), Some(0));
        for broken in [&b"\x02\0\0\0a"[..], b"\x01\0\0\0ab", b"\xff\xff\xff\xff"] {
            assert_eq!(longest_entry(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn what_ends_early_or_has_two_readings_is_refused() {
        for length in 1..PAGE.len() {
            assert_eq!(asked_by(&PAGE[..length]), None, "{length} bytes");
        }
        for (header, why) in [
            (&b"\x15\x00\x15\x02\x00"[..], "no stored size"),
            (b"\x15\x00\x05\x04\x02\x15\x00\x00", "a field's id written in full"),
            (b"\x15\x00\x15\x01\x15\x00\x00", "a negative size"),
            (b"\x15\x00\x15\x80\x80\x80\x80\x10\x15\x00\x00", "a size of 33 bits"),
            (b"\x15\x00\x16\x02\x15\x00\x00", "a size of another type"),
            (b"\x15\x00\x15\x02\x15\x00\x19\x00\x00", "a list"),
            (b"\x15\x00\x15\x02\x15\x00\x2c\x15\x02\x15\x0e\x00\x00", "values as prefixes"),
            (b"\x15\x00\x15\x02\x15\x00\x3c\x1c\x1c\x00\x00\x00\x00", "structs too deep"),
        ] {
            assert_eq!(asked_by(header), None, "{why}");
        }
    }
}
