//! Kafka's variable-length integers: base 128, least significant group first, zigzag for the sign
//! (those of Protocol Buffers' `sint32` and `sint64`).

use bytes::{BufMut, BytesMut};

/// The most bytes that a 32-bit number takes.
pub(crate) const VARINT_BYTES_MAX: usize = 5;
/// The most bytes that a 64-bit number takes.
pub(crate) const VARLONG_BYTES_MAX: usize = 10;

/// Takes a 32-bit number from the front of `input`. `None` when the bytes end before it does or it
/// does not fit; `input` is then of no use. Needlessly long encodings are read, as Kafka does.
#[inline]
pub(crate) fn get_varint(input: &mut &[u8]) -> Option<i32> {
    let (&first, rest) = input.split_first()?;
    if first < 0x80 {
        *input = rest;
        return Some(unzigzag32(u32::from(first)));
    }
    let mut value = u32::from(first & 0x7f);
    for (place, &byte) in rest.iter().take(VARINT_BYTES_MAX - 1).enumerate() {
        let shift = 7 * (place + 1);
        if shift == 28 && byte > 0x0f {
            return None;
        }
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            *input = &rest[place + 1..];
            return Some(unzigzag32(value));
        }
    }
    None
}

/// Takes a 64-bit number from the front of `input`; otherwise as [`get_varint`].
#[inline]
pub(crate) fn get_varlong(input: &mut &[u8]) -> Option<i64> {
    let (&first, rest) = input.split_first()?;
    if first < 0x80 {
        *input = rest;
        return Some(unzigzag64(u64::from(first)));
    }
    let mut value = u64::from(first & 0x7f);
    for (place, &byte) in rest.iter().take(VARLONG_BYTES_MAX - 1).enumerate() {
        let shift = 7 * (place + 1);
        if shift == 63 && byte > 0x01 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            *input = &rest[place + 1..];
            return Some(unzigzag64(value));
        }
    }
    None
}

/// Appends `value`.
#[inline]
pub(crate) fn put_varlong(output: &mut BytesMut, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        output.put_u8(low_group(rest) | 0x80);
        rest >>= 7;
    }
    output.put_u8(low_group(rest));
}

/// Bytes that [`put_varlong`] appends for `value`.
#[inline]
pub(crate) const fn varlong_bytes(value: i64) -> usize {
    let bits = (u64::BITS - (zigzag(value) | 1).leading_zeros()) as usize;
    bits.div_ceil(7)
}

const fn low_group(value: u64) -> u8 {
    (value & 0x7f) as u8
}

const fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

const fn unzigzag64(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

const fn unzigzag32(value: u32) -> i32 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut output = BytesMut::new();
        put_varlong(&mut output, value);
        assert_eq!(output.len(), varlong_bytes(value), "{value}");
        output.to_vec()
    }

    #[test]
    fn known_encodings() {
        let cases: [(i64, &[u8]); 9] = [
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (300, &[0xd8, 0x04]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ];
        for (value, bytes) in cases {
            assert_eq!(encoded(value), bytes, "{value}");
            assert_eq!(get_varlong(&mut &*bytes), Some(value));
        }
    }

    #[test]
    fn numbers_that_do_not_fit_or_end_are_refused() {
        for bytes in [&b""[..], b"\x80", b"\xff\xff\xff\xff\x10", b"\xff\xff\xff\xff\xff\x01"] {
            assert_eq!(get_varint(&mut &*bytes), None, "{bytes:x?}");
        }
        for last in [0x02, 0x7f, 0x80, 0xff] {
            let mut bytes = [0xff; 10];
            bytes[9] = last;
            assert_eq!(get_varlong(&mut &bytes[..]), None, "{last:x}");
        }
    }

    #[test]
    fn needlessly_long_numbers_are_read() {
        assert_eq!(get_varint(&mut &b"\x82\x80\x80\x80\x00"[..]), Some(1));
        assert_eq!(get_varlong(&mut &b"\x82\x80\x80\x80\x80\x80\x80\x80\x80\x00"[..]), Some(1));
    }

    proptest! {
        #[test]
        fn numbers_read_back(value: i64, shift in 0..64u32, tail: u8) {
            let value = value >> shift;
            let mut bytes = encoded(value);
            bytes.push(tail);
            let mut input = &bytes[..];
            prop_assert_eq!(get_varlong(&mut input), Some(value));
            prop_assert_eq!(input, &[tail]);
            let mut input = &bytes[..];
            let small = i32::try_from(value).ok();
            prop_assert_eq!(get_varint(&mut input), small);
        }
    }
}
