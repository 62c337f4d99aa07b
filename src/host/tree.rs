//! `/proc`, `/sys` and `/run` below a root folder: the machine's own, or a recorded tree.
//!
//! Nothing here fails: an absent or unreadable file is empty text, which every reader takes as "not
//! known". Files of the kernel are small; one that is not is cut at `FILE_BYTES_MAX`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

/// A root folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// This machine.
    pub fn machine() -> Self {
        Self::below("/")
    }

    /// A recorded tree.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// True for the running machine: only there live measurements mean anything.
    pub fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the root; `path` is written without a leading slash.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file as text, without the white space around it; empty where it cannot be read.
    pub fn text(&self, path: &str) -> String {
        String::from_utf8_lossy(&self.bytes(path)).trim().to_owned()
    }

    /// A file as it is; empty where it cannot be read.
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(self.path(path)) {
            // What was read before an error is still what the kernel said.
            let _ = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
        }
        bytes
    }

    /// A file that holds one number.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path).parse().ok()
    }

    /// A number of a file with lines such as `MemTotal: 16 kB`, as written there.
    pub fn field(&self, path: &str, name: &str) -> Option<u64> {
        field(&self.text(path), name)
    }

    /// True where the path exists.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The names in a folder, sorted; none where it cannot be read.
    pub fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.take(NAMES_MAX).collect();
        names.sort();
        names
    }

    /// The numbers of a kernel list such as `0-3,8`; `None` where it is absent or is no such list.
    pub fn list(&self, path: &str) -> Option<Vec<usize>> {
        list(&self.text(path))
    }
}

/// The number behind `name` at the start of a line.
pub fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The numbers of a kernel list, ascending.
pub fn list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last - first >= PROCESSORS_MAX {
            return None;
        }
        numbers.extend(first..=last);
        if numbers.len() > PROCESSORS_MAX {
            return None;
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers).filter(|numbers| !numbers.is_empty())
}

/// Numbers as a kernel list, `0-3,8`.
pub fn to_list(numbers: &[usize]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(usize, usize)> = None;
    let text = |(first, last): (usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    for number in numbers {
        run = match run {
            Some((first, last)) if last + 1 == *number => Some((first, *number)),
            Some(ended) => {
                parts.push(text(ended));
                Some((*number, *number))
            }
            None => Some((*number, *number)),
        };
    }
    parts.extend(run.map(text));
    parts.join(",")
}

/// The largest file that is read whole, bytes: `/proc/cpuinfo` of 2,048 threads fits.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Entries of one folder that are looked at.
const NAMES_MAX: usize = 16 * 1024;
/// Processors of a machine; Linux supports fewer on every architecture.
const PROCESSORS_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists are read and written as the kernel does; nonsense is no list.
    #[test]
    fn kernel_lists_go_both_ways() {
        for text in ["0", "0-3", "0-3,8", "1,3,5-7"] {
            assert_eq!(to_list(&list(text).unwrap()), text);
        }
        for text in ["", "5-2", "-", "a", "0-99999999999", "0-18446744073709551615"] {
            assert_eq!(list(text), None, "{text}");
        }
    }
}
