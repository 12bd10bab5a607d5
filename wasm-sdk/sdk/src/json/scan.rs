//! Going over a text: strings eight bytes at a time, values without recursion.

use std::borrow::Cow;

use super::{DEPTH_MAX, JsonError};

type Result<T = (), E = JsonError> = core::result::Result<T, E>;

/// A text and how far it has been read.
#[derive(Debug, Clone)]
pub(super) struct Scan<'t> {
    pub(super) text: &'t [u8],
    pub(super) at: usize,
}

/// What is between the quotes of a string that has been checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quoted<'t> {
    bytes: &'t [u8],
    has_escapes: bool,
}

impl Quoted<'_> {
    /// Whether it reads as `text`.
    #[inline]
    pub(super) fn reads_as(self, text: &[u8]) -> bool {
        if self.has_escapes { reads_as(self.bytes, text) } else { self.bytes == text }
    }
}

impl<'t> Scan<'t> {
    pub(super) fn new(text: &'t [u8]) -> Scan<'t> {
        Scan { text, at: 0 }
    }

    pub(super) fn error<T>(&self, what: &'static str) -> Result<T> {
        Err(JsonError { at: self.at, what })
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline]
    pub(super) fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Past `byte` if it is next.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    /// Past a string.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Quoted<'t>> {
        if !self.take(b'"') {
            return self.error("expected a string");
        }
        let start = self.at;
        let mut has_escapes = false;
        let mut high = 0_u64;
        loop {
            high |= self.plain();
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    has_escapes = true;
                    self.escape()?;
                }
                Some(0..0x20) => return self.error("a control character in a string"),
                Some(byte) => {
                    high |= u64::from(byte);
                    self.at += 1;
                }
                None => return self.error("a string without end"),
            }
        }
        let bytes = &self.text[start..self.at];
        if high & HIGH_BITS != 0 && core::str::from_utf8(bytes).is_err() {
            return self.error("a string that is not UTF-8");
        }
        self.at += 1;
        Ok(Quoted { bytes, has_escapes })
    }

    /// Up to the first byte that needs a look, eight bytes at a time, or to the last seven bytes of
    /// the text; all bits that the bytes have.
    #[inline]
    fn plain(&mut self) -> u64 {
        let mut high = 0;
        while let Some(chunk) = self.text[self.at..].first_chunk::<8>() {
            let word = u64::from_le_bytes(*chunk);
            let marks = need_a_look(word);
            if marks != 0 {
                let bits = marks.trailing_zeros() & !7;
                self.at += bits as usize / 8;
                return high | (word & !(u64::MAX << bits));
            }
            high |= word;
            self.at += 8;
        }
        high
    }

    fn escape(&mut self) -> Result {
        let escaped = self.text.get(self.at + 1);
        match escaped {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.text.get(self.at + 2..self.at + 6) {
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => self.at += 6,
                _ => return self.error("an escape without four hexadecimal digits"),
            },
            _ => return self.error("an unknown escape"),
        }
        Ok(())
    }

    /// Past a value of any kind, checked to its end.
    pub(super) fn value(&mut self, depth: usize) -> Result {
        // A bit for each open bracket: 1 is an object. The outermost is the highest in use.
        let mut open = 0_u128;
        let mut levels = 0;
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    self.space();
                    if !self.take(b'}') {
                        (open, levels) = (open << 1 | 1, self.deeper(depth, levels)?);
                        self.name()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    self.space();
                    if !self.take(b']') {
                        (open, levels) = (open << 1, self.deeper(depth, levels)?);
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // A value has ended; so may the brackets around it.
            loop {
                if levels == 0 {
                    return Ok(());
                }
                self.space();
                let in_object = open & 1 == 1;
                if self.take(b',') {
                    self.space();
                    if in_object {
                        self.name()?;
                    }
                    break;
                }
                if !self.take(if in_object { b'}' } else { b']' }) {
                    return self.error("expected a comma or the closing bracket");
                }
                open >>= 1;
                levels -= 1;
            }
        }
    }

    fn deeper(&self, depth: usize, levels: usize) -> Result<usize> {
        if depth + levels >= DEPTH_MAX { self.error("nested too deep") } else { Ok(levels + 1) }
    }

    /// Past the name of a member, the colon, and space.
    #[inline]
    pub(super) fn name(&mut self) -> Result<Quoted<'t>> {
        let name = self.string()?;
        self.space();
        if !self.take(b':') {
            return self.error("expected a colon");
        }
        self.space();
        Ok(name)
    }

    #[inline]
    fn scalar(&mut self) -> Result {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(_) => self.error("expected a value"),
            None => self.error("the text ends early"),
        }
    }

    fn literal(&mut self, literal: &[u8]) -> Result {
        if self.text[self.at..].starts_with(literal) {
            self.at += literal.len();
            Ok(())
        } else {
            self.error("expected a value")
        }
    }

    fn number(&mut self) -> Result {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.error("expected a digit") } else { Ok(()) }
    }
}

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The highest bit of each of eight bytes that is a quote, a backslash or a control character. A
/// borrow may mark a byte above one of these, never below the lowest.
#[inline]
fn need_a_look(word: u64) -> u64 {
    let zero = |word: u64| word.wrapping_sub(LOW_BITS) & !word;
    let quote = zero(word ^ (LOW_BITS * b'"' as u64));
    let backslash = zero(word ^ (LOW_BITS * b'\\' as u64));
    let control = word.wrapping_sub(LOW_BITS * 0x20) & !word;
    (quote | backslash | control) & HIGH_BITS
}

/// Whether what is between the quotes of a string that has been checked reads as `text`.
#[inline]
pub(super) fn reads_as(inner: &[u8], text: &[u8]) -> bool {
    if inner == text {
        // Escapes in both would have to read as themselves, which a backslash does not.
        return !inner.contains(&b'\\');
    }
    // An escape is longer than what it stands for.
    inner.len() > text.len()
        && inner.contains(&b'\\')
        && unescaped(inner).is_some_and(|read| read.as_bytes() == text)
}

/// What is between the quotes of a string that has been checked, as it reads. A half of a surrogate
/// pair reads as U+FFFD.
pub(super) fn unescaped(inner: &[u8]) -> Option<Cow<'_, str>> {
    let inner = core::str::from_utf8(inner).ok()?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    let mut read = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        read.push_str(plain);
        let mut chars = escaped.chars();
        match chars.next()? {
            'u' => {
                let (char, after) = unicode(chars.as_str())?;
                read.push(char);
                rest = after;
                continue;
            }
            'b' => read.push('\u{8}'),
            'f' => read.push('\u{c}'),
            'n' => read.push('\n'),
            'r' => read.push('\r'),
            't' => read.push('\t'),
            char => read.push(char),
        }
        rest = chars.as_str();
    }
    read.push_str(rest);
    Some(Cow::Owned(read))
}

/// The character of four digits, or of these and a second escape, and what follows.
fn unicode(digits: &str) -> Option<(char, &str)> {
    let (digits, rest) = digits.split_at_checked(4)?;
    let high = u32::from_str_radix(digits, 16).ok()?;
    if let Some(char) = char::from_u32(high) {
        return Some((char, rest));
    }
    let low = rest.strip_prefix("\\u").and_then(|second| second.split_at_checked(4));
    if let Some((digits, after)) = low {
        let low = u32::from_str_radix(digits, 16).ok()?;
        if (0xd800..0xdc00).contains(&high) && (0xdc00..0xe000).contains(&low) {
            let char = char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            return Some((char.unwrap_or(char::REPLACEMENT_CHARACTER), after));
        }
    }
    Some((char::REPLACEMENT_CHARACTER, rest))
}
