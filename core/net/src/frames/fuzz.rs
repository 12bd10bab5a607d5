//! Two streams whose chunks come by a script, read while memory is short and each wait is given
//! up, held against what the same bytes say in one piece.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use millstream_types::limits::FRAME_BODY_BYTES_MAX;
use millstream_wire::frame::FLAG_SKIPPABLE;

use super::*;
use crate::memory::SharedMemory;

/// What the streams of one input may carry together, so that it is worked through in no time.
const STREAM_BYTES_MAX: usize = 8 << 20;
/// Nothing is late: time is not what is looked for here.
const FRAME_TIMEOUT: Duration = Duration::from_secs(3600);
const KINDS: &[FrameKind] = &[FrameKind::Request, FrameKind::Produce];

/// What a stream's transport does next.
#[derive(Debug)]
enum Step {
    Chunk(Bytes),
    /// Nothing has arrived, once.
    Pause,
}

#[derive(Debug)]
struct Script {
    steps: VecDeque<Step>,
    /// Calls that were answered, or not because of a pause: the reader was not waiting for memory.
    calls: Arc<Mutex<usize>>,
}

impl Source for Script {
    fn read_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> impl Future<Output = Result<Option<usize>, ReadError>> + Send {
        poll_fn(move |_| {
            *self.calls.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            if matches!(self.steps.front(), Some(Step::Pause)) {
                self.steps.pop_front();
                return Poll::Pending;
            }
            let mut count = 0;
            for place in &mut *chunks {
                let Some(Step::Chunk(_)) = self.steps.front() else { break };
                let Some(Step::Chunk(chunk)) = self.steps.pop_front() else { break };
                *place = chunk;
                count += 1;
            }
            Poll::Ready(Ok((count > 0).then_some(count)))
        })
    }
}

/// How a stream ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Finished,
    Truncated,
    Refused,
}

/// One reader, what it has read so far, and what it should.
struct Stream {
    reader: FrameReader<Script>,
    calls: Arc<Mutex<usize>>,
    expected: VecDeque<(FrameKind, Vec<u8>)>,
    end: End,
    over: bool,
}

/// The first byte: whether there is memory to be short of, which kinds may come, how many frames
/// are kept unanswered. Then steps of both streams; see `steps`.
pub fn fuzz(data: &[u8]) {
    let Some((&options, script)) = data.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let _entered = runtime.enter();
    let counters = Arc::new(Counters::default());
    let more_bytes = usize::from(options >> 4) << 14;
    let shared = SharedMemory::new(FRAME_BODY_BYTES_MAX + more_bytes, Arc::clone(&counters));
    let mut streams = steps(script).map(|(steps, bytes)| {
        let accepted = (options & 2 != 0).then_some(KINDS);
        let (expected, end) = in_one_piece(&bytes, accepted);
        let calls = Arc::<Mutex<usize>>::default();
        let script = Script { steps, calls: Arc::clone(&calls) };
        let mut reader = FrameReader::new(script, Arc::clone(&counters), FRAME_TIMEOUT);
        if options & 1 != 0 {
            reader = reader.with_memory(Memory::new(0, Arc::clone(&shared)));
        }
        reader.accepted = accepted;
        Stream { reader, calls, expected, end, over: false }
    });
    let kept_max = usize::from((options >> 2) & 3);
    let (mut kept, mut idle_rounds) = (VecDeque::new(), 0);
    while streams.iter().any(|stream| !stream.over) {
        let mut moved = false;
        for stream in &mut streams {
            moved |= stream.turn(&mut kept);
            let held_bytes = counters.get("quic_received_held_bytes").unwrap_or(u64::MAX);
            assert!(held_bytes as usize <= 2 * FRAME_BODY_BYTES_MAX + (64 << 20));
        }
        // Both may wait for memory for a round: one for what the other then lets go.
        idle_rounds = if moved { 0 } else { idle_rounds + 1 };
        let answered = kept.len() > kept_max || idle_rounds > 0 && !kept.is_empty();
        if answered {
            kept.pop_front();
        }
        assert!(answered || idle_rounds < 4, "nothing moves any more");
    }
    drop(kept);
    assert_eq!(counters.get("quic_received_held_bytes"), Some(0), "ended streams hold memory");
}

impl Stream {
    /// Asks for a frame once and gives the wait up; whether anything came of it.
    fn turn(&mut self, kept: &mut VecDeque<Frame>) -> bool {
        if self.over {
            return false;
        }
        let before = *self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = pin!(self.reader.next()).poll(&mut Context::from_waker(Waker::noop()));
        if let State::Body { body, held, body_bytes, .. } = &self.reader.state {
            let granted = held.as_ref().map_or(*body_bytes, Held::granted_bytes);
            assert!(body.len() <= granted && granted <= *body_bytes);
            // Vectors grow to twice their size at most.
            assert!(body.capacity() <= 2 * (body.len() + body.len().max(TRUSTED_BYTES)));
        }
        match polled {
            Poll::Pending => {
                return *self.calls.lock().unwrap_or_else(PoisonError::into_inner) > before;
            }
            Poll::Ready(Ok(Some(frame))) => {
                let (kind, body) = self.expected.pop_front().expect("no more frames than sent");
                assert_eq!(frame.kind, kind);
                assert!(frame.body == body, "another body of {kind:?}");
                kept.push_back(frame);
                return true;
            }
            Poll::Ready(Ok(None)) => assert_eq!(self.end, End::Finished),
            Poll::Ready(Err(ReadFrameError::Truncated)) => assert_eq!(self.end, End::Truncated),
            Poll::Ready(Err(ReadFrameError::Frame(_) | ReadFrameError::Misplaced(_))) => {
                assert_eq!(self.end, End::Refused);
            }
            Poll::Ready(Err(error)) => panic!("{error}"),
        }
        assert!(self.expected.is_empty(), "frames are missing");
        self.over = true;
        true
    }
}

/// What the script makes of both streams, as steps and in one piece. A step is a byte: its highest
/// bit says which stream, the next two what comes, the rest is a number.
fn steps(script: &[u8]) -> [(VecDeque<Step>, Vec<u8>); 2] {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut streams: [(VecDeque<Step>, Vec<u8>); 2] = Default::default();
    let (mut script, mut total) = (script, 0);
    while let Some((&step, rest)) = script.split_first() {
        script = rest;
        let number = usize::from(step & 31);
        let (steps, bytes) = &mut streams[usize::from(step >> 7)];
        let chunk = match (step >> 5) & 3 {
            // As it stands in the script.
            0 if number > 0 => {
                let (chunk, rest) = script.split_at(number.min(script.len()));
                script = rest;
                Bytes::copy_from_slice(chunk)
            }
            // A header that can be, which claims up to a kind's longest body.
            1 => {
                let claim = script.first_chunk::<3>().copied().unwrap_or_default();
                script = script.get(3..).unwrap_or_default();
                let mut header = vec![0];
                header.extend(claim);
                let flags = if number > 13 { FLAG_SKIPPABLE } else { 0 };
                header.extend([number as u8, 1]);
                header.extend(flags.to_be_bytes());
                Bytes::from(header)
            }
            2 => Bytes::from_static(&ZEROS[..1 + (number << 6)]),
            3 => Bytes::from_static(&ZEROS[..1 + (number << 11)]),
            _ => {
                steps.push_back(Step::Pause);
                continue;
            }
        };
        total += chunk.len();
        if total > STREAM_BYTES_MAX {
            break;
        }
        // The transport has no empty chunks.
        if !chunk.is_empty() {
            bytes.extend_from_slice(&chunk);
            steps.push_back(Step::Chunk(chunk));
        }
    }
    streams
}

/// The frames of a stream, and how it ends, by its bytes alone.
fn in_one_piece(
    mut bytes: &[u8],
    accepted: Option<&'static [FrameKind]>,
) -> (VecDeque<(FrameKind, Vec<u8>)>, End) {
    let mut frames = VecDeque::new();
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let Ok(header) = FrameHeader::decode(*header) else { return (frames, End::Refused) };
        if let Some(kind) = header.kind
            && accepted.is_some_and(|accepted| !accepted.contains(&kind))
        {
            return (frames, End::Refused);
        }
        let Some((body, rest)) = rest.split_at_checked(header.body_bytes as usize) else {
            return (frames, End::Truncated);
        };
        if let Some(kind) = header.kind {
            frames.push_back((kind, body.to_vec()));
        }
        bytes = rest;
    }
    (frames, if bytes.is_empty() { End::Finished } else { End::Truncated })
}
