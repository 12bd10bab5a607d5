//! What commands print: aligned tables for people, JSON for programs, raw bytes for pipes.

mod progress;
mod table;

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

pub(crate) use progress::Progress;
pub(crate) use table::{Align, Table};

/// How a command prints its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON object, or one a line where there are many.
    Json,
}

/// The flag that chooses between tables and JSON; on every command that prints data.
#[derive(Args, Clone, Debug, Default)]
pub struct OutputArgs {
    /// How to print data: aligned text, or JSON (one object a line where there are many)
    #[arg(
        short,
        long,
        value_enum,
        default_value_t,
        value_name = "table|json",
        hide_possible_values = true,
        env = "MILLSTREAM_OUTPUT",
        hide_env_values = true
    )]
    pub output: Format,
}

/// Standard output, buffered; the one place of this crate that writes to it.
#[derive(Debug)]
pub(crate) struct Out {
    inner: io::BufWriter<io::Stdout>,
    format: Format,
}

impl Out {
    pub(crate) fn new(args: &OutputArgs) -> Self {
        Self { inner: io::BufWriter::with_capacity(64 * 1024, io::stdout()), format: args.output }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One value as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        // Through a buffer of its own, so that an error of the pipe stays an `io::Error`.
        let line = serde_json::to_vec(value)?;
        self.inner.write_all(&line)?;
        self.inner.write_all(b"\n")?;
        Ok(())
    }

    /// A table, or in JSON the rows that it was made of.
    pub(crate) fn rows<T: Serialize>(
        &mut self,
        rows: &[T],
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<()> {
        if self.is_json() {
            for row in rows {
                self.json(row)?;
            }
        } else {
            self.inner.write_all(table(rows).to_string().as_bytes())?;
        }
        Ok(())
    }

    /// One object: in JSON a line, else what `text` says of it.
    pub(crate) fn object<T: Serialize>(
        &mut self,
        object: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        if self.is_json() { self.json(object) } else { self.text(&text(object)) }
    }

    /// Text for people, ended by a line break.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        self.inner.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            self.inner.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.inner.write_all(bytes)?)
    }

    /// Hands everything to the reader of the pipe.
    pub(crate) fn flush(&mut self) -> Result<()> {
        Ok(self.inner.flush()?)
    }
}

/// A line to standard error, for what is no data: hints and what a command is doing.
pub(crate) fn note(text: &str) {
    // Nobody can be told that standard error is closed.
    let _closed = writeln!(io::stderr(), "{text}").is_err();
}
