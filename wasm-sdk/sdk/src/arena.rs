//! Memory that is handed out from the front and taken back all at once.
#![expect(unsafe_code, reason = "what is handed out must not move while more is handed out")]

use core::cell::UnsafeCell;
use core::fmt;

/// The first block, in words of 8 bytes.
const WORDS_MIN: usize = 8 * 1024;

/// Memory for one call. Each piece begins at a multiple of 8, and stays until the call ends.
#[derive(Default)]
pub struct Arena {
    blocks: UnsafeCell<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// Pieces are of the last one; those before it were too small.
    blocks: Vec<Vec<u64>>,
    /// Words of the last block that are handed out.
    used: usize,
}

impl Arena {
    /// Without memory yet.
    #[must_use]
    pub const fn new() -> Arena {
        Arena { blocks: UnsafeCell::new(Blocks { blocks: Vec::new(), used: 0 }) }
    }

    /// A piece of `bytes` bytes, which hold anything.
    #[must_use]
    #[expect(clippy::mut_from_ref, reason = "no two pieces overlap")]
    pub fn bytes(&self, bytes: usize) -> &mut [u8] {
        let pointer = self.pointer(bytes);
        // SAFETY: `pointer` begins `bytes` initialised bytes of a block that is neither moved nor
        // freed before `rewind`, which takes the arena exclusively, and that no other piece holds.
        unsafe { core::slice::from_raw_parts_mut(pointer, bytes) }
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn copy(&self, bytes: &[u8]) -> &[u8] {
        let copy = self.bytes(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }

    /// Takes everything back. Of several blocks the largest stays, so that the next call of the
    /// same size needs one.
    pub fn rewind(&mut self) {
        let blocks = self.blocks.get_mut();
        blocks.used = 0;
        while blocks.blocks.len() > 1 {
            let smaller = usize::from(blocks.blocks[0].len() > blocks.blocks[1].len());
            drop(blocks.blocks.swap_remove(smaller));
        }
    }

    fn pointer(&self, bytes: usize) -> *mut u8 {
        let words = bytes.div_ceil(8);
        // SAFETY: the arena is not `Sync`, and nothing below calls back into it.
        let blocks = unsafe { &mut *self.blocks.get() };
        let last = blocks.blocks.last().map_or(0, Vec::len);
        if last - blocks.used < words || blocks.blocks.is_empty() {
            let size = words.max(last.saturating_mul(2)).max(WORDS_MIN);
            blocks.blocks.push(vec![0; size]);
            blocks.used = 0;
        }
        let at = blocks.used;
        blocks.used += words;
        // Of the vector, not of a slice of it: pieces that are out stay valid.
        let block = blocks.blocks.last_mut().map_or(core::ptr::null_mut(), Vec::as_mut_ptr);
        // SAFETY: `at` and the words from there on lie in the block, which is there by now.
        unsafe { block.add(at) }.cast()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_stay_apart_until_they_are_taken_back() {
        let mut arena = Arena::new();
        for _ in 0..3 {
            let mut pieces: Vec<&mut [u8]> = Vec::new();
            for size in [0, 1, 7, 8, 9, 100_000, 3, 500_000] {
                let piece = arena.bytes(size);
                piece.fill(u8::try_from(pieces.len()).unwrap());
                pieces.push(piece);
            }
            for (index, piece) in pieces.iter().enumerate() {
                assert_eq!(piece.as_ptr().addr() % 8, 0);
                assert!(piece.iter().all(|byte| usize::from(*byte) == index));
            }
            arena.rewind();
        }
        assert_eq!(arena.copy(b"abc"), b"abc");
        assert_eq!(arena.blocks.get_mut().blocks.len(), 1);
    }
}
