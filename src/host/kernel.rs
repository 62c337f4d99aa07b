//! The kernel's version against the oldest that node, signer and membership service start on.
//!
//! 4.18 is the kernel of RHEL 8, the oldest distribution that was kept in mind; none older than 6.1
//! was tried.

use crate::host::tree::Tree;

/// Major and minor number of the oldest kernel.
pub const OLDEST: (u32, u32) = (4, 18);

/// Why nothing is served here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kernel is {release}, older than {}.{}, the oldest that Obelisk runs on; install a kernel of a \
     supported distribution release",
    OLDEST.0, OLDEST.1
)]
pub struct KernelError {
    /// As the kernel names itself.
    pub release: String,
}

/// As the kernel names itself; empty where it does not say.
pub fn release(tree: &Tree) -> String {
    tree.text("proc/sys/kernel/osrelease")
}

/// Major and minor number of a release.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Refuses a kernel that is too old; one that does not say its version is taken.
pub fn check(tree: &Tree) -> Result<(), KernelError> {
    let release = release(tree);
    match version(&release) {
        Some(found) if found < OLDEST => Err(KernelError { release }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::recorded;

    /// Releases as distributions write them; an old one is refused with cause and fix.
    #[test]
    fn old_kernels_are_refused() {
        assert_eq!(version("6.1.0-49-powerpc64le"), Some((6, 1)));
        assert_eq!(version("4.18.0-553.el8.s390x"), Some((4, 18)));
        assert_eq!((version("6.6+"), version("none"), version("")), (Some((6, 6)), None, None));
        let (folder, tree) = recorded::machine("x86-server");
        let answer = |release: &[u8]| {
            recorded::put(folder.path(), "proc/sys/kernel/osrelease", release);
            check(&tree)
        };
        assert_eq!(answer(b"4.18.0-80.el8\n"), Ok(()));
        assert_eq!(answer(b"unknown\n"), Ok(()));
        let refusal = answer(b"3.10.0-1160.el7\n").unwrap_err().to_string();
        assert!(refusal.contains("3.10.0-1160") && refusal.contains("4.18"), "{refusal}");
    }
}
