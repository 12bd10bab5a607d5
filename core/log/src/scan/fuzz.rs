//! Scans of any bytes, held against what the same bytes say in one piece.

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use millstream_env::disk::{
    Completions, Disk, DiskResult, FileId, OpToken, OpenMode, SimDisk, SimDiskConfig,
};
use millstream_types::limits::BATCH_HEADER_BYTES;
use millstream_types::{LeaderEpoch, Offset};
use millstream_wire::{Batch, crc32c};

use super::{CHAINED_BYTES, Found, Point, Scanner};
use crate::file::{OpenFile, SegmentFile};
use crate::format::{HEADER_BLOCK_BYTES, extend_crc};

const BASE: Offset = Offset::ZERO;

/// Everything is done within the submitting call.
#[derive(Debug)]
struct NeverCalled;

impl Completions for NeverCalled {
    fn complete(&self, _: FileId, _: OpToken, _: DiskResult<()>) {
        panic!("the disk is ready at once");
    }
}

/// Scans a segment in which `bytes` follow the header block, `fits` batches of them made to fit.
/// The file ends at `limit` bytes of them.
pub fn scan(fits: u8, limit: usize, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    fit(&mut bytes, fits);
    let bytes = Bytes::from(bytes);
    let file = file_of(&bytes);
    let limit = limit.min(bytes.len());
    let end = u64::from(HEADER_BLOCK_BYTES) + limit as u64;
    let mut rest = bytes.slice(..limit);
    let mut newest: Option<LeaderEpoch> = None;
    let mut scanner = Scanner::new(Arc::clone(&file), end, Point::start(BASE), None);
    loop {
        let before = scanner.point();
        let expected = Batch::split_first(&rest).ok().filter(|(batch, _)| {
            let header = batch.header();
            header.base_offset == before.offset
                && newest.is_none_or(|newest| newest <= header.leader_epoch)
        });
        let found = scanner.next().expect("the disk does not fail");
        let mut other = Scanner::new(Arc::clone(&file), end, before, newest);
        let again = other.next().expect("the disk does not fail");
        assert_eq!(other.point(), scanner.point(), "what was read before does not matter");
        match (found, expected) {
            (Found::Batch(found), Some((batch, after))) => {
                assert_eq!(found, batch);
                assert!(matches!(again, Found::Batch(again) if again == batch));
                let point = Point {
                    position: before.position + (rest.len() - after.len()) as u32,
                    offset: batch.header().next_offset(),
                    chain: extend_crc(before.chain, &batch.bytes()[..CHAINED_BYTES]),
                };
                assert_eq!(scanner.point(), point);
                newest = Some(batch.header().leader_epoch);
                rest = after;
            }
            (Found::Nothing(reason), None) => {
                assert!(matches!(again, Found::Nothing(again) if again == reason));
                assert_eq!(scanner.point(), before);
                break;
            }
            (found, expected) => panic!("{found:?}, but in one piece {expected:?}"),
        }
    }
    let zero = scanner.rest_is_zero().expect("the disk does not fail");
    assert_eq!(zero, rest.iter().all(|byte| *byte == 0));
}

/// Makes the first `count` batches fit: lengths, offsets that follow each other, epochs that are
/// small, magic, CRC, few but plausible records.
fn fit(bytes: &mut [u8], count: u8) {
    let (mut rest, mut offset) = (bytes, 0_i64);
    for _ in 0..count {
        if rest.len() < BATCH_HEADER_BYTES {
            return;
        }
        let wanted = usize::from(u16::from_be_bytes([rest[10], rest[11]]));
        let length = BATCH_HEADER_BYTES + wanted % (rest.len() - BATCH_HEADER_BYTES + 1);
        let (batch, after) = std::mem::take(&mut rest).split_at_mut(length);
        batch[..8].copy_from_slice(&offset.to_be_bytes());
        batch[8..12].copy_from_slice(&(length as u32 - 12).to_be_bytes());
        batch[12..15].fill(0);
        batch[16] = 2;
        batch[22] &= !7;
        batch[23] &= 0x7f;
        let delta = u32::from_be_bytes([batch[23], batch[24], batch[25], batch[26]]);
        batch[57..61].copy_from_slice(&(delta.min(1000) + 1).to_be_bytes());
        let crc = crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        offset += i64::from(delta) + 1;
        rest = after;
    }
}

fn file_of(bytes: &Bytes) -> Arc<OpenFile> {
    let config = SimDiskConfig { ready_per_cent: 100, ..SimDiskConfig::default() };
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(0, config));
    let segment = SegmentFile::new(Arc::clone(&disk), Path::new("").into(), BASE);
    let id = segment.open_as(OpenMode::CreateNew, Arc::new(NeverCalled)).expect("a new file");
    let block = Bytes::from(vec![0; HEADER_BLOCK_BYTES as usize]);
    let written = disk.submit_write(id, 0, &[block, bytes.clone()], OpToken(0));
    assert!(matches!(written, Poll::Ready(Ok(()))));
    segment.open().expect("it is open")
}
