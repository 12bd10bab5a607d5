//! Where an archive is, and what lies there, seen past the broker.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use millstream_tests::Moto;

/// A store.
pub(super) enum Place {
    Directory(PathBuf),
    /// The bucket of a server at this address.
    Bucket(SocketAddr),
}

impl Place {
    /// What a broker's environment says to archive there.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        match self {
            Self::Directory(dir) => {
                let location = dir.display().to_string();
                vec![("MILLSTREAM_ARCHIVE__LOCATION".to_owned(), location)]
            }
            Self::Bucket(server) => Moto::environment(*server),
        }
    }

    /// The Parquet objects that are there.
    pub(super) fn objects(&self) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        match self {
            Self::Directory(dir) => walk(dir, &mut found)?,
            Self::Bucket(server) => {
                let listed = list(*server)?;
                let keys = listed.split("<Key>").skip(1).filter_map(|key| key.split('<').next());
                found.extend(keys.map(str::to_owned));
            }
        }
        found.retain(|object| object.ends_with(".parquet"));
        Ok(found)
    }
}

/// Everything below a folder; what goes meanwhile may be in it or not.
fn walk(folder: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else {
            found.insert(path.to_str().context("a path in UTF-8")?.to_owned());
        }
    }
    Ok(())
}

/// The server's answer to ListObjectsV2, of which one page is enough for a test.
fn list(server: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(server)?;
    let target = "/archive?list-type=2&prefix=some%2Fprefix%2F";
    write!(stream, "GET {target} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{answer}");
    ensure!(!answer.contains("<IsTruncated>true"), "more objects than one page lists");
    Ok(answer)
}
