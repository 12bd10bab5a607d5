//! A real S3 server over HTTP, which keeps conditional writes honest: moto, from PyPI.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::knob::wait_until;
use crate::python::python;

/// The version that was seen to let one writer win.
const PACKAGE: &str = "moto[server]==5.2.5";
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The bucket that it has.
const BUCKET: &str = "archive";

/// A running server, ended when dropped. What it holds is in its memory.
#[derive(Debug)]
pub struct Moto {
    child: Child,
    address: SocketAddr,
}

impl Moto {
    /// Starts a server with a bucket named `archive`. `None`, with a word on standard error, where
    /// Python 3 or PyPI are not to be had: the tests need Rust and a C compiler only.
    ///
    /// # Errors
    /// It does not start; in CI also that it cannot be installed.
    pub fn start() -> Result<Option<Moto>> {
        let Some(bin) = python("moto", &[PACKAGE])? else { return Ok(None) };
        let server = bin.join("moto_server");
        // Free now, and taken by nobody else in the moment until the server has it.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let child = Command::new(server)
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let moto = Moto { child, address };
        let up = || Ok(TcpStream::connect(address).is_ok());
        wait_until("the S3 server is up", READY_WITHIN, up)?;
        let made = Command::new("python3")
            .args(["-c", MAKE_BUCKET, &format!("http://{address}/{BUCKET}")])
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(Some(moto))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a broker's environment says to archive there, reached at `endpoint`.
    #[must_use]
    pub fn environment(endpoint: SocketAddr) -> Vec<(String, String)> {
        let set = [
            ("MILLSTREAM_ARCHIVE__LOCATION", "s3://archive/some/prefix".to_owned()),
            ("MILLSTREAM_ARCHIVE__S3_ENDPOINT", format!("http://{endpoint}")),
            ("MILLSTREAM_ARCHIVE__S3_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ];
        set.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const MAKE_BUCKET: &str = "import sys, urllib.request as u\n\
    u.urlopen(u.Request(sys.argv[1], method='PUT'), timeout=20)";
