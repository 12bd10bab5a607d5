//! Stands between a broker and an S3 server, sees what is asked, and can hold a request or its
//! answer back until the broker is dead.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Result;

use super::directory::Directory;
use super::{STEP_WITHIN, Step, Watch};

/// Nothing is held back for longer.
const HELD_MAX: Duration = Duration::from_secs(20);

/// What the connections and the test share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The step that is waited for.
    armed: Option<Step>,
    /// Whether it came.
    come: bool,
    /// Counts the kills: what is held back waits for the next.
    kills: u64,
    /// Whether a PUT is on its way.
    putting: bool,
}

/// One PUT at a time: the server looks whether an object is there, then writes it, in many threads,
/// and once in some hundred races lets two writers win.
struct Turn(Arc<Shared>);

impl Turn {
    fn take(shared: &Arc<Shared>) -> Self {
        let busy = |state: &mut State| state.putting;
        shared.changed.wait_while(shared.lock(), busy).unwrap().putting = true;
        Self(Arc::clone(shared))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lock().putting = false;
        self.0.changed.notify_all();
    }
}

/// A PUT that has no answer yet.
struct Pending {
    steps: Option<&'static [Step; 2]>,
    _turn: Turn,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whether `step` is the one that is waited for. Tells the test so.
    fn comes(&self, step: Step) -> bool {
        let mut state = self.lock();
        let comes = state.armed == Some(step) && !state.come;
        if comes {
            state.come = true;
            self.changed.notify_all();
        }
        comes
    }

    /// Holds the caller back until the broker is dead.
    fn wait_for_kill(&self) {
        let state = self.lock();
        let kills = state.kills;
        let held = |state: &mut State| state.kills == kills;
        drop(self.changed.wait_timeout_while(state, HELD_MAX, held).unwrap());
    }
}

/// The proxy; its connections end with the test.
pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    local: Directory,
}

impl Proxy {
    pub(super) fn start(server: SocketAddr, data: &Path) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || relay(client, server, &shared));
            }
        });
        Ok(Self { address, shared, local: Directory::new(data) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What a PUT is for, by its first line.
fn asked(bytes: &[u8]) -> Option<&'static [Step; 2]> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    let has = |part: &[u8]| line.windows(part.len()).any(|window| window == part);
    if has(b"/manifest/") {
        return Some(&[Step::Commit, Step::CommitReply]);
    }
    has(b".parquet").then_some(&[Step::Put, Step::PutReply])
}

/// Moves bytes both ways. Requests on a connection follow one another, each after the answer to
/// the one before.
fn relay(mut client: TcpStream, mut server: TcpStream, shared: &Arc<Shared>) {
    let (Ok(mut to_client), Ok(mut from_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let pending: Arc<Mutex<Option<Pending>>> = Arc::default();
    let (answering, answers) = (Arc::clone(shared), Arc::clone(&pending));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer) {
            let answered = answers.lock().unwrap().take();
            let steps = answered.and_then(|pending| pending.steps);
            if steps.is_some_and(|steps| answering.comes(steps[1])) {
                answering.wait_for_kill();
            }
            let whole = to_client.write_all(&buffer[..count]);
            if let Some([_, Step::CommitReply]) = steps {
                // The broker knows now, and tells the metadata next.
                answering.comes(Step::Head);
            }
            if whole.is_err() {
                break;
            }
        }
        drop(to_client.shutdown(Shutdown::Both));
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        if buffer.starts_with(b"PUT ") {
            let steps = asked(&buffer[..count]);
            if steps.is_some_and(|steps| shared.comes(steps[0])) {
                shared.wait_for_kill();
                break;
            }
            *pending.lock().unwrap() = Some(Pending { steps, _turn: Turn::take(shared) });
        }
        if server.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    drop(server.shutdown(Shutdown::Both));
    drop(pending.lock().unwrap().take());
}

impl Watch for Proxy {
    fn wait_for(&mut self, step: Step) -> bool {
        if step == Step::Deletion {
            return self.local.wait_for(step);
        }
        let mut state = self.shared.lock();
        (state.armed, state.come) = (Some(step), false);
        let waiting = |state: &mut State| !state.come;
        let waited = self.shared.changed.wait_timeout_while(state, STEP_WITHIN, waiting);
        let (mut state, _) = waited.unwrap();
        state.armed = None;
        state.come
    }

    fn killed(&mut self) {
        self.shared.lock().kills += 1;
        self.shared.changed.notify_all();
    }

    fn steps(&self) -> &'static [Step] {
        &[Step::Put, Step::PutReply, Step::Commit, Step::CommitReply, Step::Head, Step::Deletion]
    }
}
