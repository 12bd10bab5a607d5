//! Who may connect: bounds on connections in all and from one address, and when strangers must
//! first prove that they own theirs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// What to do with a connection attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Go on; the slot is the connection's until dropped.
    Accept(Slot),
    /// Send it back to prove its address.
    Validate,
    /// Turn it away.
    Refuse(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) connections_max: usize,
    pub(crate) connections_per_address_max: usize,
    /// Above so many unfinished handshakes, addresses must be validated first.
    pub(crate) validate_above_handshakes: usize,
}

#[derive(Debug)]
pub(crate) struct Admission {
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    handshakes: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// One connection's place. Counts as a handshake until [`Slot::established`].
#[derive(Debug)]
pub(crate) struct Slot {
    admission: Arc<Admission>,
    address: IpAddr,
    handshake: bool,
}

impl Admission {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, state: Mutex::default() })
    }

    /// Decides on an attempt from `address`; `validated` when its owner has proved it, and
    /// `can_validate` when that may still be asked.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        validated: bool,
        can_validate: bool,
    ) -> Verdict {
        let address = group(address);
        let mut state = self.lock();
        if !validated && can_validate && state.handshakes >= self.bounds.validate_above_handshakes {
            return Verdict::Validate;
        }
        if state.connections >= self.bounds.connections_max {
            return Verdict::Refuse("connections in all");
        }
        let count = state.by_address.entry(address).or_default();
        if *count >= self.bounds.connections_per_address_max {
            return Verdict::Refuse("connections from one address");
        }
        *count += 1;
        state.connections += 1;
        state.handshakes += 1;
        Verdict::Accept(Slot { admission: Arc::clone(self), address, handshake: true })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every critical section leaves the counts whole, so that poison says nothing here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The handshake is over; the connection stays.
    pub(crate) fn established(&mut self) {
        if std::mem::take(&mut self.handshake) {
            self.admission.lock().handshakes -= 1;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.established();
        let mut state = self.admission.lock();
        state.connections -= 1;
        if let Some(count) = state.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                state.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: an IPv4 address however it is written, or an IPv6 /64, since one
/// subscriber has all of that.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { connections_max: 3, connections_per_address_max: 2, validate_above_handshakes: 2 };

    fn accept(admission: &Arc<Admission>, address: &str) -> Slot {
        match admission.admit(address.parse().unwrap(), true, false) {
            Verdict::Accept(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn refused(admission: &Arc<Admission>, address: &str) -> bool {
        matches!(admission.admit(address.parse().unwrap(), true, false), Verdict::Refuse(_))
    }

    #[test]
    fn one_address_has_its_bound_and_gets_it_back() {
        let admission = Admission::new(BOUNDS);
        let first = accept(&admission, "10.0.0.1");
        let _second = accept(&admission, "::ffff:10.0.0.1");
        assert!(refused(&admission, "10.0.0.1"));
        drop(first);
        let _third = accept(&admission, "10.0.0.1");
        let _other = accept(&admission, "10.0.0.2");
        assert!(refused(&admission, "10.0.0.3"), "the bound on all of them");
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let admission = Admission::new(BOUNDS);
        let _first = accept(&admission, "2001:db8::1");
        let _second = accept(&admission, "2001:db8::2:3");
        assert!(refused(&admission, "2001:db8::4"));
        let _other = accept(&admission, "2001:db8:0:1::1");
    }

    #[test]
    fn strangers_validate_their_address_while_handshakes_pile_up() {
        let admission = Admission::new(BOUNDS);
        let mut first = accept(&admission, "10.0.0.1");
        let _second = accept(&admission, "10.0.0.2");
        let stranger: IpAddr = "10.0.0.3".parse().unwrap();
        assert!(matches!(admission.admit(stranger, false, true), Verdict::Validate));
        first.established();
        assert!(matches!(admission.admit(stranger, false, true), Verdict::Accept(_)));
    }
}
