//! Frames on a QUIC stream: gathering them out of the transport's chunks, and sending them with
//! few and large pieces.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use millstream_types::limits::FRAME_HEADER_BYTES;
use millstream_wire::frame::{FrameError, FrameHeader, FrameKind};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::counters::{Counters, add};

/// Chunks taken out of the transport at once: each is one packet's payload.
const CHUNKS: usize = 32;
/// What a claimed length may make us allocate before any of the body arrived.
const TRUSTED_BYTES: usize = 1024 * 1024;
/// Pieces up to this size are copied together before they are sent: the transport walks its list
/// of pieces for every packet, which costs more than copying short ones.
const GATHER_BYTES: usize = 2048;
/// The unit in which memory is accounted for.
const MEMORY_UNIT_BYTES: usize = 1024;

/// Why no frame can be read.
#[derive(Debug, Error)]
pub(crate) enum ReadFrameError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the stream ends inside a frame")]
    Truncated,
    #[error("a frame took longer than {} s to arrive", .0.as_secs())]
    Late(Duration),
    #[error("the stream was lost: {0}")]
    Lost(ReadError),
}

/// Bounds what received frames may hold of memory: one account for the connection, one for all.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    connection: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// A frame's share of memory, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _connection: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// An account of `bytes`.
pub(crate) fn memory_account(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes / MEMORY_UNIT_BYTES).min(Semaphore::MAX_PERMITS)))
}

impl Memory {
    pub(crate) fn new(connection_bytes: usize, all: Arc<Semaphore>) -> Self {
        Self { connection: memory_account(connection_bytes), all }
    }

    /// Waits for `bytes`. The connection's account comes first, so that one that overdraws its own
    /// waits there and not in front of others. `None` never happens: accounts are never closed.
    async fn hold(&self, bytes: u32) -> Option<Held> {
        let units = bytes.div_ceil(u32::try_from(MEMORY_UNIT_BYTES).unwrap_or(1024));
        let connection = Arc::clone(&self.connection).acquire_many_owned(units).await.ok()?;
        let all = Arc::clone(&self.all).acquire_many_owned(units).await.ok()?;
        Some(Held { _connection: connection, _all: all })
    }
}

/// A whole frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) body: BytesMut,
    /// Its share of the bounded memory; drop it once the frame is answered.
    pub(crate) held: Option<Held>,
}

#[derive(Debug)]
enum State {
    Header {
        bytes: [u8; FRAME_HEADER_BYTES],
        length: usize,
    },
    /// The header agreed; memory for the body is not yet granted.
    Wanted {
        kind: FrameKind,
        body_bytes: u32,
    },
    Body {
        kind: FrameKind,
        body_bytes: usize,
        body: BytesMut,
        held: Option<Held>,
    },
    Skip {
        left: usize,
    },
}

const BETWEEN_FRAMES: State = State::Header { bytes: [0; FRAME_HEADER_BYTES], length: 0 };

/// Reads frames off one stream. All progress is kept in here, so that [`FrameReader::next`] may be
/// cancelled and called again.
#[derive(Debug)]
pub(crate) struct FrameReader {
    recv: RecvStream,
    chunks: [Bytes; CHUNKS],
    next_chunk: usize,
    state: State,
    memory: Option<Memory>,
    frame_timeout: Duration,
    frame_deadline: Option<Instant>,
    counters: Arc<Counters>,
}

impl FrameReader {
    /// A reader without an account: what it may hold is bounded by its caller's pace.
    pub(crate) fn new(recv: RecvStream, counters: Arc<Counters>, frame_timeout: Duration) -> Self {
        Self {
            recv,
            chunks: [const { Bytes::new() }; CHUNKS],
            next_chunk: CHUNKS,
            state: BETWEEN_FRAMES,
            memory: None,
            frame_timeout,
            frame_deadline: None,
            counters,
        }
    }

    pub(crate) fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Tells the peer that nothing more will be read.
    pub(crate) fn stop(&mut self, code: u32) {
        // An error means that the stream is over already.
        drop(self.recv.stop(code.into()));
    }

    /// The next frame; `None` once the peer has finished. Frames of unknown kinds that may be
    /// skipped are. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, ReadFrameError> {
        loop {
            if let Some(frame) = self.advance()? {
                return Ok(Some(frame));
            }
            if let State::Wanted { kind, body_bytes } = self.state {
                let held = match &self.memory {
                    Some(memory) => memory.hold(body_bytes).await,
                    None => None,
                };
                let body_bytes = body_bytes as usize;
                let body = BytesMut::with_capacity(body_bytes.min(TRUSTED_BYTES));
                self.state = State::Body { kind, body_bytes, body, held };
                continue;
            }
            let between = matches!(self.state, State::Header { length: 0, .. });
            if !self.fill(between).await? {
                return if between { Ok(None) } else { Err(ReadFrameError::Truncated) };
            }
        }
    }

    /// Takes more chunks out of the transport; false once the peer has finished.
    async fn fill(&mut self, between_frames: bool) -> Result<bool, ReadFrameError> {
        let read = self.recv.read_chunks(&mut self.chunks);
        let count = if between_frames {
            read.await
        } else {
            let timeout = self.frame_timeout;
            let deadline = *self.frame_deadline.get_or_insert_with(|| Instant::now() + timeout);
            let late = ReadFrameError::Late(timeout);
            tokio::time::timeout_at(deadline, read).await.or(Err(late))?
        };
        let Some(count) = count.map_err(ReadFrameError::Lost)? else { return Ok(false) };
        // They stand at the front; move them to the back, where `next_chunk` counts up to the end.
        self.chunks[..].rotate_left(count);
        self.next_chunk = CHUNKS - count;
        Ok(true)
    }

    /// Works through the chunks that are here, up to the end of one frame.
    fn advance(&mut self) -> Result<Option<Frame>, ReadFrameError> {
        loop {
            match &mut self.state {
                State::Wanted { .. } => return Ok(None),
                State::Header { length, .. } if *length == FRAME_HEADER_BYTES => {
                    self.read_header()?;
                    continue;
                }
                State::Body { body_bytes, body, .. } if body.len() == *body_bytes => {
                    return Ok(self.take_frame());
                }
                State::Skip { left: 0 } => {
                    self.state = BETWEEN_FRAMES;
                    self.frame_deadline = None;
                    continue;
                }
                _ => {}
            }
            let Some(chunk) = self.chunks.get_mut(self.next_chunk) else { return Ok(None) };
            match &mut self.state {
                State::Header { bytes, length } => {
                    let count = chunk.len().min(FRAME_HEADER_BYTES - *length);
                    bytes[*length..*length + count].copy_from_slice(&chunk[..count]);
                    chunk.advance(count);
                    *length += count;
                }
                State::Body { body_bytes, body, .. } => {
                    let count = chunk.len().min(*body_bytes - body.len());
                    grow(body, count, *body_bytes);
                    body.extend_from_slice(&chunk[..count]);
                    chunk.advance(count);
                }
                State::Skip { left } => {
                    let count = chunk.len().min(*left);
                    chunk.advance(count);
                    *left -= count;
                }
                State::Wanted { .. } => return Ok(None),
            }
            if chunk.is_empty() {
                *chunk = Bytes::new();
                self.next_chunk += 1;
            }
        }
    }

    fn read_header(&mut self) -> Result<(), ReadFrameError> {
        let State::Header { bytes, .. } = &self.state else { return Ok(()) };
        let FrameHeader { kind, body_bytes, .. } = FrameHeader::decode(*bytes)?;
        self.state = match kind {
            Some(kind) => State::Wanted { kind, body_bytes },
            None => State::Skip { left: body_bytes as usize },
        };
        Ok(())
    }

    fn take_frame(&mut self) -> Option<Frame> {
        self.frame_deadline = None;
        match std::mem::replace(&mut self.state, BETWEEN_FRAMES) {
            State::Body { kind, body, held, .. } => {
                add(&self.counters.bytes_in, FRAME_HEADER_BYTES + body.len());
                add(&self.counters.bytes_copied, body.len());
                Some(Frame { kind, body, held })
            }
            _ => None,
        }
    }
}

/// Makes room for `count` more bytes of a body. Room beyond what was trusted at first is made in
/// proportion to what has arrived.
fn grow(body: &mut BytesMut, count: usize, body_bytes: usize) {
    if body.capacity() - body.len() < count {
        let left = body_bytes - body.len();
        body.reserve(left.min(count.max(body.len()).max(TRUSTED_BYTES)));
    }
}

/// Sends frames that are ready as they are.
pub(crate) async fn send_bytes(
    send: &mut SendStream,
    counters: &Counters,
    bytes: Bytes,
) -> Result<(), WriteError> {
    let length = bytes.len();
    send.write_chunk(bytes).await?;
    add(&counters.bytes_out, length);
    Ok(())
}

/// Sends one frame: its header, `prefix`, then `pieces`, which are not copied unless they are so
/// short that copying is cheaper. Not cancel-safe: a frame half sent ends the stream's use.
///
/// The caller has checked that the body is within its kind's limit.
pub(crate) async fn send_pieces(
    send: &mut SendStream,
    counters: &Counters,
    header: [u8; FRAME_HEADER_BYTES],
    prefix: &[u8],
    pieces: &[Bytes],
) -> Result<(), WriteError> {
    let mut chunks = Vec::with_capacity(pieces.len() + 1);
    let mut short = BytesMut::with_capacity(FRAME_HEADER_BYTES + prefix.len() + GATHER_BYTES);
    short.extend_from_slice(&header);
    short.extend_from_slice(prefix);
    let mut copied = 0;
    for piece in pieces {
        if piece.len() <= GATHER_BYTES {
            short.extend_from_slice(piece);
            copied += piece.len();
        } else {
            if !short.is_empty() {
                chunks.push(short.split().freeze());
            }
            chunks.push(piece.clone());
        }
    }
    if !short.is_empty() {
        chunks.push(short.freeze());
    }
    let total: usize = chunks.iter().map(Bytes::len).sum();
    send.write_all_chunks(&mut chunks).await?;
    add(&counters.bytes_copied, copied);
    add(&counters.bytes_out, total);
    Ok(())
}
