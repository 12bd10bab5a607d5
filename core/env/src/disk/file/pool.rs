//! Buffers for large reads, used again and again: memory fresh from the system has to be cleared
//! page by page, which costs about as much as reading into it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::lock;

/// Reads below this allocate as they need.
const POOLED_BYTES_MIN: usize = 64 * 1024;
/// Buffers above this are not kept.
const BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What idle buffers may hold in all.
const IDLE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Idle buffers, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct ReadPool {
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// A buffer that goes back to its pool when the last `Bytes` over it is dropped.
struct Pooled {
    bytes: Vec<u8>,
    pool: Arc<ReadPool>,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

impl ReadPool {
    /// An empty buffer with room for `bytes`.
    pub(super) fn take(&self, bytes: usize) -> Vec<u8> {
        if bytes >= POOLED_BYTES_MIN {
            let mut idle = lock(&self.idle);
            // Not much larger either: a read fills the whole buffer.
            let room = bytes..=bytes + bytes / 4;
            let fits = idle.buffers.iter().rposition(|buffer| room.contains(&buffer.capacity()));
            if let Some(index) = fits {
                let buffer = idle.buffers.swap_remove(index);
                idle.bytes -= buffer.capacity();
                return buffer;
            }
        }
        Vec::with_capacity(bytes)
    }

    /// What was read, as bytes that return their buffer.
    pub(super) fn share(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        if bytes.capacity() < POOLED_BYTES_MIN {
            return Bytes::from(bytes);
        }
        Bytes::from_owner(Pooled { bytes, pool: Arc::clone(self) })
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        let mut idle = lock(&self.idle);
        if buffer.capacity() > BUFFER_BYTES_MAX {
            return;
        }
        while idle.bytes + buffer.capacity() > IDLE_BYTES_MAX && !idle.buffers.is_empty() {
            // The one that has fitted nobody for longest.
            let oldest = idle.buffers.remove(0);
            idle.bytes -= oldest.capacity();
        }
        buffer.clear();
        idle.bytes += buffer.capacity();
        idle.buffers.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_all_bytes_over_it_are_gone() {
        let pool = Arc::new(ReadPool::default());
        let mut buffer = pool.take(100_000);
        buffer.extend_from_slice(&[7; 100_000]);
        let at = buffer.as_ptr();
        let bytes = pool.share(buffer);
        let part = bytes.slice(10..20);
        drop(bytes);
        let other = pool.take(100_000);
        assert_ne!(other.as_ptr(), at, "still in use");
        drop(part);
        let again = pool.take(100_000);
        assert_eq!((again.as_ptr(), again.len()), (at, 0));
    }

    #[test]
    fn what_idles_is_bounded() {
        let pool = Arc::new(ReadPool::default());
        let buffers: Vec<_> = (0..64).map(|_| pool.take(1024 * 1024)).collect();
        for buffer in buffers {
            drop(pool.share(buffer));
        }
        assert!(lock(&pool.idle).bytes <= IDLE_BYTES_MAX);
    }
}
