//! Paths as a tree of names, so that one comparison a member is made for all of them.

use core::fmt;

/// A set of paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paths {
    pub(super) root: Node,
}

/// What is known of the members of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Node {
    pub(super) members: Vec<(Vec<u8>, Node)>,
    /// A path ends here.
    pub(super) ends: bool,
}

/// The longest path.
const PARTS_MAX: usize = 16;

/// A path that names nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathError(String);

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no path of 1 to {PARTS_MAX} names with dots between", self.0)
    }
}

impl core::error::Error for PathError {}

impl Paths {
    /// Of paths; a path below another says nothing new.
    ///
    /// # Errors
    /// One of them has an empty name, or too many.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p str>) -> Result<Paths, PathError> {
        let mut root = Node::default();
        for path in paths {
            let parts = split(path).ok_or_else(|| PathError(path.to_owned()))?;
            let mut node = &mut root;
            for part in parts {
                let at = match node.members.iter().position(|(name, _)| *name == part) {
                    Some(at) => at,
                    None => {
                        node.members.push((part, Node::default()));
                        node.members.len() - 1
                    }
                };
                node = &mut node.members[at].1;
            }
            node.ends = true;
        }
        Ok(Paths { root })
    }

    /// Of paths with commas between, as an operator writes them in an option.
    ///
    /// # Errors
    /// One of them has an empty name, or too many.
    pub fn listed(paths: &str) -> Result<Paths, PathError> {
        Paths::new(paths.split(',').map(str::trim))
    }
}

/// `None` for a path without names, with an empty one, or with too many.
fn split(path: &str) -> Option<Vec<Vec<u8>>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let part = parts.last_mut()?;
        match byte {
            b'\\' => part.push(bytes.next()?),
            b'.' => parts.push(Vec::new()),
            byte => part.push(byte),
        }
    }
    let all_named = parts.iter().all(|part| !part.is_empty());
    (all_named && parts.len() <= PARTS_MAX).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_share_what_they_have_in_common() {
        let paths = Paths::listed("a.b, a.c,d\\.e").unwrap();
        let names: Vec<&[u8]> =
            paths.root.members.iter().map(|(name, _)| name.as_slice()).collect();
        assert_eq!(names, [b"a".as_slice(), b"d.e"]);
        assert_eq!(paths.root.members[0].1.members.len(), 2);
        assert!(!paths.root.members[0].1.ends && paths.root.members[1].1.ends);
        let deep = ["a"; PARTS_MAX + 1].join(".");
        for bad in ["", "a.", ".a", "a..b", "a\\", "a,,b", &deep] {
            assert!(Paths::listed(bad).is_err(), "{bad}");
        }
    }
}
