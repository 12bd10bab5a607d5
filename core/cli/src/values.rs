//! Values that several flags share: byte sizes and points in time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A number of bytes, written `512`, `64KiB`, `1MiB` or `2GiB` (`K`, `M`, `G` for short, all
/// powers of 1,024).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The size as an index or a length in memory; the largest one where it does not fit.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let number: u64 =
            digits.parse().map_err(|_| format!("`{text}` is not a size such as 64KiB"))?;
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            _ => return Err(format!("unknown unit `{unit}`: use KiB, MiB or GiB")),
        };
        let bytes = number.checked_mul(1 << shift).ok_or("the size is too large")?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Milliseconds since the Unix epoch from `1700000000000` or `2023-11-14T22:13:20Z`.
///
/// # Errors
/// Says what a point in time looks like.
pub fn parse_timestamp_ms(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse::<i64>() {
        return if ms < 0 { Err(format!("`{text}` lies before 1970")) } else { Ok(ms) };
    }
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        format!("`{text}` is neither milliseconds since 1970 nor RFC 3339 (2026-01-31T12:00:00Z)")
    })?;
    let ms = moment.unix_timestamp_nanos() / 1_000_000;
    i64::try_from(ms).ok().filter(|ms| *ms >= 0).ok_or(format!("`{text}` lies before 1970"))
}

/// A number of bytes for people: `873 B`, `1.4 KiB`, `17.9 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in units {
        if bytes >= size {
            return format!("{:.1} {unit}", as_f64(bytes) / as_f64(size));
        }
    }
    format!("{bytes} B")
}

/// A span of time for people, in whole seconds once it has one: `850ms`, `1m 3s`, `2h 5m`.
pub(crate) fn human_duration(ms: u64) -> String {
    let shown = if ms < 1000 { ms } else { ms / 1000 * 1000 };
    humantime::format_duration(Duration::from_millis(shown)).to_string()
}

/// A count for people, its thousands set apart: `1,234,567`.
pub(crate) fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count and what is counted: `1 record`, `2,000 records`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", human_count(count))
}

/// The nearest floating-point number; exact below 2^53, which no count here passes.
#[expect(clippy::cast_precision_loss, reason = "for ratios that are shown to people")]
pub(crate) fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_what_they_print() {
        for (text, bytes) in [("512", 512), ("64KiB", 65536), ("1MiB", 1 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!("4k".parse(), Ok(ByteSize(4096)));
    }

    #[test]
    fn malformed_sizes_are_refused() {
        for text in [
            "",
            "KiB",
            "-1",
            "1.5MiB",
            "3 parsecs",
            "99999999999999999999",
            "18446744073709551615K",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn timestamps_are_milliseconds_or_rfc_3339() {
        assert_eq!(parse_timestamp_ms("0"), Ok(0));
        assert_eq!(parse_timestamp_ms("1700000000123"), Ok(1_700_000_000_123));
        assert_eq!(parse_timestamp_ms("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        assert_eq!(parse_timestamp_ms("2023-11-14T23:13:20.5+01:00"), Ok(1_700_000_000_500));
        for text in ["-1", "yesterday", "2023-11-14", "1969-12-31T23:59:59Z"] {
            assert!(parse_timestamp_ms(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn people_see_short_numbers() {
        assert_eq!(human_bytes(873), "873 B");
        assert_eq!(human_bytes(1434), "1.4 KiB");
        assert_eq!(human_duration(850), "850ms");
        assert_eq!(human_duration(63_250), "1m 3s");
        assert_eq!(human_duration(7_500_999), "2h 5m");
        assert_eq!(human_count(1), "1");
        assert_eq!(human_count(123), "123");
        assert_eq!(human_count(1_234_567), "1,234,567");
    }
}
