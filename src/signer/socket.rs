//! The local socket between nodes and the signer: who may own it, who may speak on it.
//!
//! ```text
//! directory   owned by this user or root, not writable by group or others
//! <socket>    owned by the signer's user, mode 0600, or 0660 with a group
//! <socket>.lock   held by the one signer that serves here
//! peer        its user id, as the kernel states it, is on the signer's list
//! ```
//!
//! Both sides check: the signer whom it answers, the node whom it asks. A socket in a place that
//! others can write could be another program's.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Gid;
use nix::unistd::Uid;
use nix::unistd::chown;
use nix::unistd::geteuid;

/// Why a socket is not used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory could be changed by others.
    #[error(
        "the signer's socket directory {path} {fault}; it must belong to this user or root and be \
         writable by its owner alone: `chmod go-w {path}`, or choose another directory"
    )]
    Directory { path: PathBuf, fault: String },
    /// Something else lies there.
    #[error("{path} exists and is no socket; choose another signer socket, or move the file away")]
    Occupied { path: PathBuf },
    /// A socket of another user, or open to all.
    #[error("the signer's socket {path} {fault}; {fix}")]
    Socket { path: PathBuf, fault: String, fix: &'static str },
    /// Another signer serves here.
    #[error("another signer serves {path}; stop it first: one process holds the keys")]
    Running { path: PathBuf },
    /// The process behind the socket is another user's.
    #[error(
        "the process behind {path} runs as user {found}, the socket belongs to user {expected}; \
         remove the socket and start the signer again"
    )]
    Imposter { path: PathBuf, found: u32, expected: u32 },
    /// Nobody listens.
    #[error("no signer listens on {path}; start it: obelisk signer --config FILE")]
    Absent { path: PathBuf, source: io::Error },
    /// The system refused.
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

/// A listening socket; its lock lives as long.
pub struct Listening {
    /// Accepts connections.
    pub listener: UnixListener,
    _lock: File,
}

/// Binds the socket. With `group`, its members may connect too (and must still be listed users).
pub fn listen(path: &Path, group: Option<u32>) -> Result<Listening, SocketError> {
    check_directory(path)?;
    let failed = |doing| move |source| SocketError::Io { doing, path: path.to_owned(), source };
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let lock = options.open(&lock_path).map_err(failed("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            return Err(SocketError::Running { path: path.to_owned() });
        }
        Err(fs::TryLockError::Error(source)) => return Err(failed("lock")(source)),
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            fs::remove_file(path).map_err(failed("replace"))?;
        }
        Ok(_) => return Err(SocketError::Occupied { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed("read")(source)),
    }
    let listener = UnixListener::bind(path).map_err(failed("bind"))?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if let Some(group) = group {
        chown(path, None, Some(Gid::from_raw(group)))
            .map_err(|errno| failed("give its group to")(errno.into()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(failed("set the mode of"))?;
    Ok(Listening { listener, _lock: lock })
}

/// Connects to the signer of `user`, who must own the socket.
pub fn connect(path: &Path, user: u32) -> Result<UnixStream, SocketError> {
    let absent = |source| SocketError::Absent { path: path.to_owned(), source };
    let found = fs::symlink_metadata(path).map_err(absent)?;
    check_directory(path)?;
    if !found.file_type().is_socket() {
        return Err(SocketError::Occupied { path: path.to_owned() });
    }
    let refuse =
        |fault: String, fix| Err(SocketError::Socket { path: path.to_owned(), fault, fix });
    if found.uid() != user {
        return refuse(
            format!("belongs to user {}, expected is user {user}", found.uid()),
            "set signer.user to the signer's user, or remove the socket and start the signer",
        );
    }
    if found.mode() & 0o007 != 0 {
        return refuse(
            format!("is open to all users (mode {:03o})", found.mode() & 0o777),
            "remove it and start the signer again, which sets 0600 or 0660",
        );
    }
    let stream = UnixStream::connect(path).map_err(absent)?;
    let peer = peer_user(&stream).map_err(|source| SocketError::Io {
        doing: "ask the kernel who serves",
        path: path.to_owned(),
        source,
    })?;
    if peer != user {
        let (path, found, expected) = (path.to_owned(), peer, user);
        return Err(SocketError::Imposter { path, found, expected });
    }
    Ok(stream)
}

/// The user id of the process at the other end, as it was when the connection was made.
pub fn peer_user(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, PeerCredentials)?.uid())
}

/// This process's user id.
pub fn own_user() -> u32 {
    geteuid().as_raw()
}

fn check_directory(socket: &Path) -> Result<(), SocketError> {
    let directory = match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let path = directory.to_owned();
    let found = fs::metadata(directory).map_err(|source| SocketError::Io {
        doing: "read",
        path: path.clone(),
        source,
    })?;
    if found.mode() & 0o022 != 0 {
        let fault = format!("is writable by others (mode {:03o})", found.mode() & 0o777);
        return Err(SocketError::Directory { path, fault });
    }
    // The node's side sees a directory of the signer's user: the socket's owner is checked there.
    let owner = Uid::from_raw(found.uid());
    let socket_owner = fs::symlink_metadata(socket).map(|found| found.uid()).ok();
    if owner != geteuid() && !owner.is_root() && Some(found.uid()) != socket_owner {
        return Err(SocketError::Directory { path, fault: format!("belongs to user {owner}") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A directory that others may write, a file in the way and a second signer are refused.
    #[test]
    fn places_that_are_not_safe_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        mode(directory.path(), 0o777);
        assert!(matches!(listen(&path, None), Err(SocketError::Directory { .. })));
        mode(directory.path(), 0o700);
        fs::write(&path, "a file").unwrap();
        assert!(matches!(listen(&path, None), Err(SocketError::Occupied { .. })));
        fs::remove_file(&path).unwrap();
        let first = listen(&path, None).unwrap();
        assert!(matches!(listen(&path, None), Err(SocketError::Running { .. })));
        drop(first);
        listen(&path, None).unwrap();
    }

    /// A client refuses a socket of another user and one that is open to all.
    #[test]
    fn clients_check_owner_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        mode(directory.path(), 0o700);
        let path = directory.path().join("s");
        assert!(matches!(connect(&path, own_user()), Err(SocketError::Absent { .. })));
        let _listening = listen(&path, None).unwrap();
        connect(&path, own_user()).unwrap();
        let error = connect(&path, own_user() + 1).unwrap_err();
        assert!(matches!(error, SocketError::Socket { .. }), "{error}");
        mode(&path, 0o666);
        let error = connect(&path, own_user()).unwrap_err();
        assert!(error.to_string().contains("open to all"), "{error}");
    }
}
