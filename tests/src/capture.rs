//! What a long-running process writes: kept, up to a bound, and searched for one line.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A log keeps the newest lines, at most this many bytes of them.
const LOG_BYTES_MAX: usize = 4 << 20;

/// A longer line is kept as several.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// The newest output of one process, shared with the threads that read it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
}

impl Log {
    /// Everything kept, oldest first, with a note of what was not.
    pub(crate) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = match lines.dropped {
            0 => String::new(),
            dropped => format!("({dropped} earlier lines were dropped)\n"),
        };
        text.extend(lines.lines.iter().map(String::as_str));
        text
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.bytes += line.len();
        lines.lines.push_back(line);
        while lines.bytes > LOG_BYTES_MAX {
            let Some(oldest) = lines.lines.pop_front() else { break };
            lines.bytes -= oldest.len();
            lines.dropped += 1;
        }
    }

    /// Reads `pipe` to its end into this log, each line after `label`, and offers every line to
    /// `found` until one has been taken.
    pub(crate) fn follow<R: Read + Send + 'static>(
        &self,
        pipe: R,
        label: &'static str,
        mut found: Option<SyncSender<String>>,
    ) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            loop {
                let mut line = Vec::new();
                match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                log.push(format!("{label}: {line}\n"));
                // The receiver goes away once it has what it waited for.
                if found.as_ref().is_some_and(|found| found.send(line.to_owned()).is_err()) {
                    found = None;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn lines_are_kept_and_offered_until_nobody_listens() {
        let log = Log::default();
        let (sender, receiver) = sync_channel(8);
        log.follow(&b"one\ntwo\r\nthree"[..], "out", Some(sender)).join().unwrap();
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["one", "two", "three"]);
        let (sender, receiver) = sync_channel(0);
        drop(receiver);
        log.follow(&b"four\nfive\n"[..], "err", Some(sender)).join().unwrap();
        assert_eq!(log.text(), "out: one\nout: two\nout: three\nerr: four\nerr: five\n");
    }

    #[test]
    fn the_newest_lines_stay() {
        let log = Log::default();
        let line = "x".repeat(1 << 20);
        for _ in 0..5 {
            log.push(line.clone());
        }
        log.push("last\n".to_owned());
        let text = log.text();
        assert!(text.starts_with("(2 earlier lines were dropped)\n"));
        assert!(text.ends_with("last\n") && text.len() < LOG_BYTES_MAX + 100);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let log = Log::default();
        let endless = vec![b'x'; 100 << 10];
        log.follow(std::io::Cursor::new(endless), "out", None).join().unwrap();
        assert_eq!(log.text().lines().count(), 2);
    }
}
