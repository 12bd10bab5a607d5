//! The codecs of Kafka's record batches.
//!
//! Decompression is bounded by the bytes it really produces: no length that the input merely claims
//! is allocated before the input has shown that it can fill it.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

/// The start of every stream in the framing of Java's `SnappyOutputStream`; a version and the
/// oldest compatible version follow, both 32 bits.
const SNAPPY_JAVA_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// The version that `SnappyOutputStream` has written since its first release.
const SNAPPY_JAVA_VERSION: u32 = 1;
/// Bytes that one Snappy block compresses, as in `SnappyOutputStream`.
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;
/// No Snappy block yields more bytes per byte: its densest element is 3 bytes that copy 64.
const SNAPPY_EXPANSION_MAX: usize = 22;
/// Kafka's default level, and zstd's own.
const ZSTD_LEVEL: i32 = 3;
/// The largest window that zstd's highest level asks for, as a power of two. The decoder reserves
/// that much address space; memory is touched only as output fills it.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// What a first output buffer is, per input byte, before it grows.
const FIRST_EXPANSION: usize = 4;

/// Why bytes could not be compressed or decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The bytes are not what the codec writes.
    #[error("malformed {codec} data")]
    Malformed {
        /// The codec in the batch's attributes.
        codec: Codec,
    },
    /// The output passes the limit.
    #[error("{codec} data decompresses to more than {max_bytes} bytes")]
    TooLarge {
        /// The codec in the batch's attributes.
        codec: Codec,
        /// The most that is taken.
        max_bytes: usize,
    },
    /// The compressor failed, for lack of memory or because the input is too large for it.
    #[error("{codec} compression failed")]
    Compress {
        /// The codec asked for.
        codec: Codec,
    },
}

/// How a batch's records are compressed. The numbers are Kafka's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy in the framing of Java's `SnappyOutputStream`, as Kafka's own clients write it.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

impl Codec {
    /// Every codec, in order of its number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in a batch's attributes.
    #[must_use]
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// From the number in a batch's attributes; `None` for one that Kafka does not define.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name in configuration and on the command line, as Kafka's `compression.type` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Appends `input` to `output`, compressed the way Kafka's own clients do.
    ///
    /// # Errors
    /// [`CompressionError::Compress`]; `output` may then end in part of the result.
    pub fn compress(self, input: &[u8], output: &mut BytesMut) -> Result<(), CompressionError> {
        let done = match self {
            Self::None => {
                output.put_slice(input);
                Ok(())
            }
            Self::Gzip => compress_gzip(input, output),
            Self::Snappy => compress_snappy(input, output),
            Self::Lz4 => compress_lz4(input, output),
            Self::Zstd => compress_zstd(input, output),
        };
        done.or(Err(CompressionError::Compress { codec: self }))
    }

    /// What `input` decompresses to. Snappy is read with Java's framing and without it.
    ///
    /// # Errors
    /// [`CompressionError::TooLarge`] as soon as the output passes `max_bytes`, having allocated no
    /// more than twice that; [`CompressionError::Malformed`].
    pub fn decompress(self, input: &[u8], max_bytes: usize) -> Result<Bytes, CompressionError> {
        let too_large = CompressionError::TooLarge { codec: self, max_bytes };
        let first = input.len().saturating_mul(FIRST_EXPANSION).min(max_bytes);
        let mut output = Vec::with_capacity(first);
        let done = match self {
            Self::None => {
                if input.len() > max_bytes {
                    return Err(too_large);
                }
                output.extend_from_slice(input);
                Ok(())
            }
            Self::Gzip => read_bounded(MultiGzDecoder::new(input), max_bytes, &mut output),
            Self::Snappy => decompress_snappy(input, max_bytes, &mut output),
            Self::Lz4 => decompress_lz4(input, max_bytes, &mut output),
            Self::Zstd => decompress_zstd(input, max_bytes, &mut output),
        };
        match done {
            Ok(()) => Ok(Bytes::from(output)),
            Err(Failure::TooLarge) => Err(too_large),
            Err(Failure::Malformed) => Err(CompressionError::Malformed { codec: self }),
        }
    }
}

/// Why a codec failed, before the codec and the limit are added.
#[derive(Debug)]
enum Failure {
    TooLarge,
    Malformed,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Malformed
    }
}

/// Reads `decoder` to its end. `output` grows with what was read, and one byte beyond `max_bytes`
/// is enough to give up.
fn read_bounded(decoder: impl Read, max_bytes: usize, output: &mut Vec<u8>) -> Result<(), Failure> {
    let stop = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(stop).read_to_end(output)?;
    if output.len() > max_bytes { Err(Failure::TooLarge) } else { Ok(()) }
}

fn compress_gzip(input: &[u8], output: &mut BytesMut) -> io::Result<()> {
    let mut encoder = GzEncoder::new(output.writer(), flate2::Compression::default());
    encoder.write_all(input)?;
    encoder.finish().map(drop)
}

/// Blocks of 64 KiB, independent and without checksums: Kafka's `Lz4BlockOutputStream`.
fn compress_lz4(input: &[u8], output: &mut BytesMut) -> io::Result<()> {
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, output.writer());
    encoder.write_all(input)?;
    encoder.finish().map(drop).map_err(io::Error::from)
}

/// One frame and nothing after it. Its end mark may be missing, as the decoder does not tell.
fn decompress_lz4(mut input: &[u8], max_bytes: usize, output: &mut Vec<u8>) -> Result<(), Failure> {
    read_bounded(FrameDecoder::new(&mut input), max_bytes, output)?;
    if input.is_empty() { Ok(()) } else { Err(Failure::Malformed) }
}

fn compress_zstd(input: &[u8], output: &mut BytesMut) -> io::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(output.writer(), ZSTD_LEVEL)?;
    encoder.set_pledged_src_size(u64::try_from(input.len()).ok())?;
    encoder.write_all(input)?;
    encoder.finish().map(drop)
}

fn decompress_zstd(input: &[u8], max_bytes: usize, output: &mut Vec<u8>) -> Result<(), Failure> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    read_bounded(decoder, max_bytes, output)
}

/// Java's framing: magic and versions, then blocks, each after its compressed length.
fn compress_snappy(input: &[u8], output: &mut BytesMut) -> io::Result<()> {
    output.put_slice(SNAPPY_JAVA_MAGIC);
    output.put_u32(SNAPPY_JAVA_VERSION);
    output.put_u32(SNAPPY_JAVA_VERSION);
    let mut encoder = snap::raw::Encoder::new();
    let mut scratch = vec![0; snap::raw::max_compress_len(SNAPPY_BLOCK_BYTES)];
    for block in input.chunks(SNAPPY_BLOCK_BYTES) {
        let written = encoder.compress(block, &mut scratch)?;
        let length = u32::try_from(written).map_err(io::Error::other)?;
        output.put_u32(length);
        output.put_slice(&scratch[..written]);
    }
    Ok(())
}

fn decompress_snappy(
    mut input: &[u8],
    max_bytes: usize,
    output: &mut Vec<u8>,
) -> Result<(), Failure> {
    let framed = input.len() >= 16 && input.starts_with(SNAPPY_JAVA_MAGIC);
    if !framed {
        return decompress_snappy_block(input, max_bytes, output);
    }
    input.advance(16);
    while input.has_remaining() {
        let length = input.try_get_u32().or(Err(Failure::Malformed))?;
        let block = input.get(..length as usize).ok_or(Failure::Malformed)?;
        decompress_snappy_block(block, max_bytes, output)?;
        input.advance(block.len());
    }
    Ok(())
}

/// Appends one raw block. Its claimed length is believed as far as its bytes could yield it.
fn decompress_snappy_block(
    block: &[u8],
    max_bytes: usize,
    output: &mut Vec<u8>,
) -> Result<(), Failure> {
    let claimed = snap::raw::decompress_len(block).or(Err(Failure::Malformed))?;
    if claimed > block.len().saturating_mul(SNAPPY_EXPANSION_MAX) {
        return Err(Failure::Malformed);
    }
    let start = output.len();
    if claimed > max_bytes - start {
        return Err(Failure::TooLarge);
    }
    output.resize(start + claimed, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut output[start..])
        .or(Err(Failure::Malformed))?;
    if written == claimed { Ok(()) } else { Err(Failure::Malformed) }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text names no codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a codec is one of none, gzip, snappy, lz4, zstd")]
pub struct ParseCodecError;

impl FromStr for Codec {
    type Err = ParseCodecError;

    fn from_str(text: &str) -> Result<Self, ParseCodecError> {
        Self::ALL.into_iter().find(|codec| codec.as_str() == text).ok_or(ParseCodecError)
    }
}
