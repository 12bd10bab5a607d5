//! Dropping, keeping and masking members. What stays is passed on in runs as long as they can be.

use super::paths::{Node, Paths};
use super::scan::{Quoted, Scan};
use super::{DEPTH_MAX, JsonError};

type Result<T = (), E = JsonError> = core::result::Result<T, E>;

/// What happens to the members that paths name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// They go.
    Drop(Paths),
    /// They stay, with the objects and arrays around them; every other member goes. A text that is
    /// neither object nor array stays as it is.
    Keep(Paths),
    /// Their values become this text, which must be JSON: see [`mask`].
    Mask(Paths, Vec<u8>),
}

/// The JSON string of a text, to mask values with.
#[must_use]
pub fn mask(text: &str) -> Vec<u8> {
    let mut json = vec![b'"'];
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => json.extend_from_slice(&[b'\\', byte]),
            0..0x20 => json.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            byte => json.push(byte),
        }
    }
    json.push(b'"');
    json
}

impl Edit {
    /// Edits `text` and passes what comes of it to `write`, in pieces. Returns whether anything
    /// changed: if not, nothing was passed.
    ///
    /// # Errors
    /// It is not JSON; some pieces may have been passed.
    pub fn apply(&self, text: &[u8], mut write: impl FnMut(&[u8])) -> Result<bool> {
        let (paths, kind) = match self {
            Edit::Drop(paths) => (paths, Kind::Drop),
            Edit::Keep(paths) => (paths, Kind::Keep),
            Edit::Mask(paths, mask) => (paths, Kind::Mask(mask)),
        };
        let mut editor =
            Editor { scan: Scan::new(text), kind, write: &mut write, from: 0, changed: false };
        editor.whole(&paths.root)?;
        if editor.changed {
            let rest = &text[editor.from..];
            (editor.write)(rest);
        }
        Ok(editor.changed)
    }
}

/// Calls `found` with each value that `paths` name.
pub(super) fn visit<'t>(text: &'t [u8], paths: &Paths, found: &mut dyn FnMut(&'t [u8])) -> Result {
    let mut scan = Scan::new(text);
    scan.space();
    visit_value(&mut scan, &paths.root, 0, found)?;
    end(&mut scan)
}

fn visit_value<'t>(
    scan: &mut Scan<'t>,
    node: &Node,
    depth: usize,
    found: &mut dyn FnMut(&'t [u8]),
) -> Result {
    let start = scan.at;
    match scan.peek() {
        Some(b'{') if !node.members.is_empty() => {
            let mut more = open(scan, b'}', depth)?;
            while more {
                let name = scan.name()?;
                match member(node, name) {
                    Some(inner) => visit_value(scan, inner, depth + 1, found)?,
                    None => scan.value(depth + 1)?,
                }
                more = next(scan, b'}')?;
            }
        }
        Some(b'[') if !node.members.is_empty() => {
            let mut more = open(scan, b']', depth)?;
            while more {
                visit_value(scan, node, depth + 1, found)?;
                more = next(scan, b']')?;
            }
        }
        _ => scan.value(depth)?,
    }
    if node.ends {
        found(&scan.text[start..scan.at]);
    }
    Ok(())
}

/// Past an opening bracket and space; whether anything is between the brackets.
#[inline]
fn open(scan: &mut Scan<'_>, closing: u8, depth: usize) -> Result<bool> {
    if depth >= DEPTH_MAX {
        return scan.error("nested too deep");
    }
    scan.at += 1;
    scan.space();
    Ok(!scan.take(closing))
}

/// Behind a value: whether another follows, past the comma and space.
#[inline]
fn next(scan: &mut Scan<'_>, closing: u8) -> Result<bool> {
    scan.space();
    if scan.take(b',') {
        scan.space();
        return Ok(true);
    }
    if scan.take(closing) {
        return Ok(false);
    }
    scan.error("expected a comma or the closing bracket")
}

fn end(scan: &mut Scan<'_>) -> Result {
    scan.space();
    if scan.at == scan.text.len() { Ok(()) } else { scan.error("more than one value") }
}

#[inline]
fn member<'n>(node: &'n Node, name: Quoted<'_>) -> Option<&'n Node> {
    node.members.iter().find(|(known, _)| name.reads_as(known)).map(|(_, node)| node)
}

#[derive(Debug, Clone, Copy)]
enum Kind<'e> {
    Drop,
    Keep,
    Mask(&'e [u8]),
}

struct Editor<'t, 'e, W> {
    scan: Scan<'t>,
    kind: Kind<'e>,
    write: &'e mut W,
    /// What has been read and neither passed on nor left out begins here.
    from: usize,
    changed: bool,
}

impl<'t, W: FnMut(&[u8])> Editor<'t, '_, W> {
    fn whole(&mut self, root: &Node) -> Result {
        self.scan.space();
        self.value(root, 0)?;
        end(&mut self.scan)
    }

    fn value(&mut self, node: &Node, depth: usize) -> Result {
        match self.scan.peek() {
            Some(b'{') if !node.members.is_empty() => self.items(node, depth, b'}'),
            Some(b'[') if !node.members.is_empty() => self.items(node, depth, b']'),
            _ => self.scan.value(depth),
        }
    }

    /// Past an object or an array, one of whose members or items may be meant.
    fn items(&mut self, node: &Node, depth: usize, closing: u8) -> Result {
        let mut more = open(&mut self.scan, closing, depth)?;
        // Where the last item that stays ends: what is left out begins there, with the comma
        // between them, or, before any item stays, where the first begins.
        let mut kept_to = None;
        let mut start = self.scan.at;
        while more {
            let stays = if closing == b'}' {
                let name = self.scan.name()?;
                self.stays(member(node, name), depth + 1)?
            } else {
                // A path goes through arrays: of an item it names what it names of the array.
                self.inner(node, depth + 1)?
            };
            let ends = self.scan.at;
            more = next(&mut self.scan, closing)?;
            match (stays, kept_to) {
                (true, _) => kept_to = Some(ends),
                (false, Some(kept_to)) => self.leave_out(kept_to, ends),
                // With the comma that follows, as nothing stays that one could be behind.
                (false, None) => self.leave_out(start, if more { self.scan.at } else { ends }),
            }
            start = self.scan.at;
        }
        Ok(())
    }

    /// Past the value of a member; whether the member stays.
    #[inline]
    fn stays(&mut self, node: Option<&Node>, depth: usize) -> Result<bool> {
        match (self.kind, node) {
            (Kind::Drop | Kind::Mask(_), None) => self.scan.value(depth).map(|()| true),
            (Kind::Keep, None) => self.scan.value(depth).map(|()| false),
            (Kind::Drop, Some(node)) if node.ends => self.scan.value(depth).map(|()| false),
            (Kind::Keep, Some(node)) if node.ends => self.scan.value(depth).map(|()| true),
            (Kind::Mask(mask), Some(node)) if node.ends => {
                let start = self.scan.at;
                self.scan.value(depth)?;
                self.leave_out(start, self.scan.at);
                (self.write)(mask);
                Ok(true)
            }
            (_, Some(node)) => self.inner(node, depth),
        }
    }

    /// Past a value that something is meant of; whether it stays. In a value that is neither object
    /// nor array there is nothing of what is to be kept.
    fn inner(&mut self, node: &Node, depth: usize) -> Result<bool> {
        let has_inside = matches!(self.scan.peek(), Some(b'{' | b'['));
        self.value(node, depth)?;
        Ok(has_inside || !matches!(self.kind, Kind::Keep))
    }

    /// Passes on what stays before `from`, and goes on at `to`.
    fn leave_out(&mut self, from: usize, to: usize) {
        if self.from < from {
            (self.write)(&self.scan.text[self.from..from]);
        }
        self.from = to;
        self.changed = true;
    }
}
