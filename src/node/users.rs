//! Users and groups of the system, by name or number, as configurations write them.

use nix::unistd::Group;
use nix::unistd::Uid;
use nix::unistd::User;

use crate::signer::socket;

/// The id of a user given by name or number; empty is this process's own.
pub fn id_of(user: &str) -> Result<u32, String> {
    if user.is_empty() {
        return Ok(socket::own_user());
    }
    if let Ok(id) = user.parse() {
        return Ok(id);
    }
    match User::from_name(user) {
        Ok(Some(found)) => Ok(found.uid.as_raw()),
        Ok(None) => Err(format!("no user is called {user:?}; create it, or give a number")),
        Err(errno) => Err(format!("cannot look up the user {user:?}: {errno}")),
    }
}

/// A user's name for people; its number where it has none.
pub fn name_of(user: u32) -> String {
    match User::from_uid(Uid::from_raw(user)) {
        Ok(Some(found)) => found.name,
        Ok(None) | Err(_) => user.to_string(),
    }
}

/// The id of a group given by name or number; empty is none.
pub fn group_id_of(group: &str) -> Result<Option<u32>, String> {
    if group.is_empty() {
        return Ok(None);
    }
    if let Ok(id) = group.parse() {
        return Ok(Some(id));
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(Some(found.gid.as_raw())),
        Ok(None) => Err(format!("no group is called {group:?}; create it, or give a number")),
        Err(errno) => Err(format!("cannot look up the group {group:?}: {errno}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, numbers and nothing resolve; unknown names are refused with the name.
    #[test]
    fn users_resolve_by_name_and_number() {
        assert_eq!(id_of("root"), Ok(0));
        assert_eq!(id_of("4711"), Ok(4711));
        assert_eq!(id_of(""), Ok(socket::own_user()));
        assert!(id_of("nobody-of-that-name").unwrap_err().contains("nobody-of-that-name"));
        assert_eq!((name_of(0).as_str(), name_of(4_000_000_000).as_str()), ("root", "4000000000"));
        assert_eq!(group_id_of("root"), Ok(Some(0)));
        assert_eq!(group_id_of(""), Ok(None));
        assert!(group_id_of("no-such-group").is_err());
    }
}
