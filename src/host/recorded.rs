//! Recorded machines for tests: one text file per tree of `/proc` and `/sys` (`tests/data/hosts`).
//!
//! ```text
//! # comment, at the top only
//! >>> auxv 6=65536 26=0x02200000      the auxiliary vector, written in this machine's byte order
//! >>> proc/meminfo                    a file; its lines follow
//! ```

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::host::tree::Tree;

/// A recorded machine, unpacked; `name` without `.tree`.
pub fn machine(name: &str) -> (TempDir, Tree) {
    let folder = tempfile::tempdir().unwrap();
    let path = data().join(format!("{name}.tree"));
    unpack(&fs::read_to_string(path).unwrap(), folder.path());
    let tree = Tree::below(folder.path());
    (folder, tree)
}

/// Where recorded machines lie.
pub fn data() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hosts")
}

/// Writes a file of a tree, with its folders.
pub fn put(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn unpack(text: &str, root: &Path) {
    let mut parts = text.split("\n>>> ");
    parts.next();
    for part in parts {
        let (head, body) = part.split_once('\n').unwrap_or((part, ""));
        if let Some(pairs) = head.strip_prefix("auxv ") {
            put(root, "proc/self/auxv", &auxv(pairs));
        } else {
            put(root, head, format!("{}\n", body.trim_end()).as_bytes());
        }
    }
}

fn auxv(pairs: &str) -> Vec<u8> {
    let word = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap(),
    };
    let pairs = pairs.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    pairs.flat_map(|(k, v)| [word(k).to_ne_bytes(), word(v).to_ne_bytes()].concat()).collect()
}
