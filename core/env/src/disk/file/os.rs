//! The system calls whose short results, limits and missing support need care.

use std::fs::{File, OpenOptions};
use std::io;
#[cfg(target_os = "linux")]
use std::io::IoSlice;
use std::path::Path;

use bytes::Bytes;

use super::pool::ReadPool;

/// Pieces of a small write, whose vector lives on the stack at no cost worth naming.
#[cfg(target_os = "linux")]
const PIECES_FEW: usize = 16;

/// Pieces a system call takes at most: Linux's `IOV_MAX`.
#[cfg(target_os = "linux")]
const PIECES_MAX: usize = 1024;

/// Opens an existing file, or makes a new one, for reading and writing.
pub(super) fn open_file(path: &Path, create_new: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(create_new).open(path)
}

/// Opens a directory so that it can be synced.
pub(super) fn open_dir(path: &Path) -> io::Result<File> {
    let dir = OpenOptions::new().read(true).open(path)?;
    if dir.metadata()?.is_dir() { Ok(dir) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Writes all of `data`, piece after piece, at `position`.
#[cfg(target_os = "linux")]
pub(super) fn write_all_at(file: &File, position: u64, data: &[Bytes]) -> io::Result<()> {
    if data.len() <= PIECES_FEW {
        write_vectored::<PIECES_FEW>(file, position, data)
    } else {
        write_vectored::<PIECES_MAX>(file, position, data)
    }
}

/// Writes all of `data`, piece after piece, at `position`.
#[cfg(not(target_os = "linux"))]
pub(super) fn write_all_at(file: &File, position: u64, data: &[Bytes]) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut position = position;
    for piece in data {
        file.write_all_at(piece, position)?;
        position = position.saturating_add(piece.len() as u64);
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn write_vectored<const N: usize>(file: &File, position: u64, data: &[Bytes]) -> io::Result<()> {
    let mut position = position;
    let mut rest = data;
    // Bytes of the first piece of `rest` that are written already.
    let mut done = 0;
    loop {
        while let [first, tail @ ..] = rest
            && done >= first.len()
        {
            done -= first.len();
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let mut slices = [IoSlice::new(&[]); N];
        let mut skip = done;
        for (slice, piece) in slices.iter_mut().zip(rest) {
            *slice = IoSlice::new(piece.get(skip..).unwrap_or_default());
            skip = 0;
        }
        let count = rest.len().min(N);
        match rustix::io::pwritev(file, slices.get(..count).unwrap_or_default(), position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position = position.saturating_add(written as u64);
                done += written;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the system forget what it has cached of the files below `dir`.
pub(super) fn drop_page_cache(dir: &Path) -> io::Result<()> {
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else {
                let file = OpenOptions::new().read(true).open(entry.path())?;
                #[cfg(target_os = "linux")]
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
                drop(file);
            }
        }
    }
    Ok(())
}

/// Reads up to `len` bytes at `position`; fewer only at the end of the file.
pub(super) fn read_at(
    file: &File,
    position: u64,
    len: usize,
    pool: &ReadPool,
) -> io::Result<Vec<u8>> {
    /// Up to here the room is taken unasked; above, only as much as the file has.
    const UNASKED_BYTES_MAX: usize = 64 * 1024;
    let mut room = len;
    if len > UNASKED_BYTES_MAX {
        let left = file.metadata()?.len().saturating_sub(position);
        room = len.min(usize::try_from(left).unwrap_or(usize::MAX));
    }
    let mut out = pool.take(room);
    // The buffer may have more room than asked for, so stop at `room`, not at the capacity.
    while out.len() < room {
        let at = position.saturating_add(out.len() as u64);
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut out), at) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    out.truncate(room);
    Ok(out)
}

/// Grows the file to `len` at least, with room for all of it where the system can promise that.
#[cfg(target_os = "linux")]
pub(super) fn preallocate(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if len == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return grow(file, len),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Grows the file to `len` at least; this system promises no room.
#[cfg(not(target_os = "linux"))]
pub(super) fn preallocate(file: &File, len: u64) -> io::Result<()> {
    grow(file, len)
}

fn grow(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() < len { file.set_len(len) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_pieces_than_a_call_takes_arrive_in_order_with_empty_ones_between() {
        let file = tempfile::tempfile().unwrap();
        let mut pieces = vec![Bytes::new()];
        let mut expected = vec![0u8; 5];
        for i in 0..3000u32 {
            let piece = vec![(i % 251) as u8; (i % 4) as usize];
            expected.extend_from_slice(&piece);
            pieces.push(Bytes::from(piece));
        }
        write_all_at(&file, 5, &pieces).unwrap();
        assert_eq!(read_at(&file, 0, usize::MAX >> 1, &ReadPool::default()).unwrap(), expected);
    }

    #[test]
    fn a_write_of_nothing_succeeds() {
        let file = tempfile::tempfile().unwrap();
        write_all_at(&file, 9, &[]).unwrap();
        write_all_at(&file, 9, &[Bytes::new(), Bytes::new()]).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
