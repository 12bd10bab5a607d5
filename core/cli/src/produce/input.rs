//! Where records come from: standard input or files; lines, JSON lines, or whole files.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use millstream_types::limits::BATCH_BYTES_MAX;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::args::ProduceArgs;
use crate::failure::advised;
use crate::json_record::{self, InputRecord};

const READ_BUFFER_BYTES: usize = 256 * 1024;

const TOO_LONG: &str = "split it; --lines takes each line of a file as a record";

/// How bytes become records.
#[derive(Clone, Debug)]
enum Shape {
    Json,
    Lines { separator: Option<String>, key: Option<String> },
    Whole { key: Option<String> },
}

/// Lines of one source, counted for messages.
struct Lines {
    name: Arc<str>,
    reader: Pin<Box<dyn AsyncBufRead + Send>>,
    number: u64,
}

/// The records of all sources, one after the other.
pub(super) struct Input {
    shape: Shape,
    files: VecDeque<PathBuf>,
    lines: Option<Lines>,
}

impl Input {
    pub(super) fn new(args: &ProduceArgs) -> Self {
        let shape = if args.json {
            Shape::Json
        } else if args.file.is_empty() || args.lines || args.key_separator.is_some() {
            Shape::Lines { separator: args.key_separator.clone(), key: args.key.clone() }
        } else {
            Shape::Whole { key: args.key.clone() }
        };
        let files: VecDeque<PathBuf> = args.file.iter().cloned().collect();
        let stdin = || {
            let reader = BufReader::with_capacity(READ_BUFFER_BYTES, tokio::io::stdin());
            Lines { name: "standard input".into(), reader: Box::pin(reader), number: 0 }
        };
        let lines = files.is_empty().then(stdin);
        Self { shape, files, lines }
    }

    /// The next record and where it stood; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<(InputRecord, Arc<str>)>> {
        loop {
            if let Some(lines) = &mut self.lines {
                let Some(line) = read_line(lines).await? else {
                    self.lines = None;
                    continue;
                };
                // Between JSON lines a blank one is nothing; of plain lines it is a record.
                if matches!(self.shape, Shape::Json) && line.trim_ascii().is_empty() {
                    continue;
                }
                let source: Arc<str> = format!("{}, line {}", lines.name, lines.number).into();
                let record =
                    parse(&self.shape, line).with_context(|| format!("cannot read {source}"))?;
                return Ok(Some((record, source)));
            }
            let Some(path) = self.files.pop_front() else { return Ok(None) };
            if let Shape::Whole { key } = &self.shape {
                let value = read_whole(&path).await?;
                let key = key.clone().map(String::into_bytes);
                let record = InputRecord { key, value: Some(value), ..InputRecord::default() };
                return Ok(Some((record, path.display().to_string().into())));
            }
            self.lines = Some(open_lines(&path).await?);
        }
    }
}

fn parse(shape: &Shape, line: Vec<u8>) -> Result<InputRecord> {
    match shape {
        Shape::Json => match json_record::parse_line(&line) {
            Ok(record) => Ok(record),
            Err(message) => Err(advised(message, "see the JSON input in `produce --help`")),
        },
        Shape::Lines { separator: Some(separator), .. } => {
            let separator_bytes = separator.as_bytes();
            let found = line.windows(separator_bytes.len()).position(|w| w == separator_bytes);
            let Some(at) = found else {
                return Err(advised(
                    format!("the line has no `{separator}` after a key"),
                    "correct the line, or choose another --key-separator",
                ));
            };
            let value = line[at + separator_bytes.len()..].to_vec();
            let key = Some(line[..at].to_vec());
            Ok(InputRecord { key, value: Some(value), ..InputRecord::default() })
        }
        Shape::Lines { key, .. } | Shape::Whole { key } => {
            let key = key.clone().map(String::into_bytes);
            Ok(InputRecord { key, value: Some(line), ..InputRecord::default() })
        }
    }
}

async fn open(path: &Path) -> Result<tokio::fs::File> {
    tokio::fs::File::open(path).await.map_err(|error| {
        advised(
            format!("cannot read {}: {error}", path.display()),
            "name a file that can be read with --file, or none for standard input",
        )
    })
}

async fn open_lines(path: &Path) -> Result<Lines> {
    let file = open(path).await?;
    let reader = Box::pin(BufReader::with_capacity(READ_BUFFER_BYTES, file));
    Ok(Lines { name: path.display().to_string().into(), reader, number: 0 })
}

/// A line without its end; `None` after the last. One longer than any batch is refused before it
/// fills the memory.
async fn read_line(lines: &mut Lines) -> Result<Option<Vec<u8>>> {
    lines.number += 1;
    let mut line = Vec::new();
    let limit = BATCH_BYTES_MAX as u64;
    let read = lines.reader.as_mut().take(limit).read_until(b'\n', &mut line).await;
    if read.with_context(|| format!("cannot read {}", lines.name))? == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_some() {
        line.pop_if(|last| *last == b'\r');
    } else if line.len() >= BATCH_BYTES_MAX {
        return Err(advised(
            format!("{}, line {}: longer than the largest batch", lines.name, lines.number),
            TOO_LONG,
        ));
    }
    Ok(Some(line))
}

async fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let refused = || format!("cannot read {}", path.display());
    let file = open(path).await?;
    let mut value = Vec::new();
    file.take(BATCH_BYTES_MAX as u64).read_to_end(&mut value).await.with_context(refused)?;
    if value.len() >= BATCH_BYTES_MAX {
        let message = format!("{} is larger than the largest batch", path.display());
        return Err(advised(message, TOO_LONG));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn records(flags: &[&str], files: &[(&str, &[u8])]) -> Result<Vec<(InputRecord, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let mut line: Vec<String> = ["millstream", "produce", "t"].map(str::to_owned).to_vec();
        line.extend(flags.iter().map(|flag| (*flag).to_owned()));
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            line.extend(["--file".to_owned(), path.display().to_string()]);
        }
        let Command::Produce(args) = Cli::parse_from(line).command else { panic!("not produce") };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut input = Input::new(&args);
            let mut records = Vec::new();
            while let Some((record, source)) = input.next().await? {
                let place = source.strip_prefix(dir.path().to_str().unwrap()).unwrap().to_owned();
                records.push((record, place));
            }
            Ok(records)
        })
    }

    fn keyed(key: Option<&str>, value: &[u8]) -> InputRecord {
        let key = key.map(|key| key.as_bytes().to_vec());
        InputRecord { key, value: Some(value.to_vec()), ..InputRecord::default() }
    }

    #[test]
    fn lines_lose_only_their_ends() {
        let read = records(&["--lines"], &[("a", b"one\n\ntwo\r\n three"), ("b", b"\xff\n")]);
        let expected = [
            (keyed(None, b"one"), "/a, line 1"),
            (keyed(None, b""), "/a, line 2"),
            (keyed(None, b"two"), "/a, line 3"),
            (keyed(None, b" three"), "/a, line 4"),
            (keyed(None, b"\xff"), "/b, line 1"),
        ];
        assert_eq!(read.unwrap(), expected.map(|(record, place)| (record, place.to_owned())));
    }

    #[test]
    fn a_separator_splits_at_its_first_place() {
        let read = records(&["--key-separator", "::"], &[("a", b"k::v::w\n::v\n")]).unwrap();
        assert_eq!(read[0].0, keyed(Some("k"), b"v::w"));
        assert_eq!(read[1].0, keyed(Some(""), b"v"));
        let error = records(&["--key-separator", "::"], &[("a", b"k::v\nk:v\n")]).unwrap_err();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }

    #[test]
    fn a_file_is_one_record_unless_told_otherwise() {
        let read = records(&["--key", "k"], &[("a", b"x\ny\n"), ("b", b"")]).unwrap();
        let read: Vec<_> = read.into_iter().map(|(record, _)| record).collect();
        assert_eq!(read, [keyed(Some("k"), b"x\ny\n"), keyed(Some("k"), b"")]);
    }

    #[test]
    fn a_malformed_json_line_is_named() {
        let error = records(&["--json"], &[("a", b"{\"value\":1}\n{\"volume\":1}\n")]).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("line 2") && text.contains("volume"), "{text}");
    }

    #[test]
    fn blank_lines_between_json_lines_are_nothing() {
        let text = b"\n{\"value\":\"a\"}\n \t\r\n{\"value\":\"b\"}\n\n";
        let read = records(&["--json"], &[("a", text)]).unwrap();
        let expected = [(keyed(None, b"a"), "/a, line 2"), (keyed(None, b"b"), "/a, line 4")];
        assert_eq!(read, expected.map(|(record, place)| (record, place.to_owned())));
    }

    #[test]
    fn a_line_longer_than_any_batch_is_refused() {
        let long = vec![b'x'; BATCH_BYTES_MAX + 1];
        let error = records(&["--lines"], &[("a", &long)]).unwrap_err();
        assert!(error.to_string().contains("longer"), "{error:#}");
    }
}
