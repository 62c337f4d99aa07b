//! The client profile: which network, which nodes, who signs. One small TOML file.
//!
//! ```toml
//! genesis = "genesis.bin"                       # whose signatures count
//! identity = "org1/client/client"               # who signs (an MSP folder)
//! admin = "org1/admin/admin"                    # who signs what needs the role admin
//! grpc = ["127.0.0.1:7053", "127.0.0.1:7063"]   # nodes, in order of preference
//! rest = "127.0.0.1:7050"                       # for curl and browsers; not used by this program
//! ```
//!
//! Relative paths are relative to the file. Unknown keys are refused.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::cli::failure::Exit;
use crate::cli::failure::Failure;

/// Name of the profile in a network's folder.
pub const FILE: &str = "client.toml";

/// What a client needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Genesis document.
    pub genesis: PathBuf,
    /// Folder of the identity that signs.
    pub identity: PathBuf,
    /// Folder of the identity that signs what needs the role admin; `identity` where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<PathBuf>,
    /// Nodes' gRPC addresses, host:port, in order of preference.
    pub grpc: Vec<String>,
    /// A node's REST address, host:port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<String>,
}

impl Profile {
    /// Reads a profile: a file, or `client.toml` in a folder.
    pub fn load(place: &Path) -> Result<Self, Failure> {
        let path = if place.is_dir() { place.join(FILE) } else { place.to_owned() };
        let text = fs::read_to_string(&path).map_err(|error| {
            let exit = match error.kind() {
                io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Usage,
            };
            let cause = format!("cannot read the client profile {}: {error}", path.display());
            Failure::new(exit, cause, "name the network's folder with --network DIR")
        })?;
        Self::parse(&text, &path)
    }

    /// Parses the text of the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let mut profile: Self = toml::from_str(text).map_err(|error| {
            let cause = format!("{}: {}", path.display(), error.to_string().trim_end());
            Failure::usage(cause, "correct the line; docs/cli.md lists the keys of a profile")
        })?;
        if profile.grpc.is_empty() {
            let cause = format!("{}: grpc names no node", path.display());
            return Err(Failure::usage(cause, "write grpc = [\"host:port\"]"));
        }
        if let Some(bad) = profile.grpc.iter().find(|address| !is_address(address)) {
            let cause = format!("{}: grpc: {bad:?} is not host:port", path.display());
            return Err(Failure::usage(cause, "write an address like 127.0.0.1:7053"));
        }
        let base = path.parent().unwrap_or_else(|| Path::new(""));
        let places = [&mut profile.genesis, &mut profile.identity];
        for place in places.into_iter().chain(&mut profile.admin) {
            *place = base.join(&*place);
        }
        Ok(profile)
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a profile is a table of plain values")
    }
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "genesis = \"g.bin\"\nidentity = \"me\"\ngrpc = [\"127.0.0.1:7053\"]\n";

    /// Paths are relative to the file, absolute ones stay.
    #[test]
    fn paths_are_relative_to_the_file() {
        let text = GOOD.replace("me", "/keys/me");
        let profile = Profile::parse(&text, Path::new("/net/client.toml")).unwrap();
        assert_eq!(profile.genesis, Path::new("/net/g.bin"));
        assert_eq!(profile.identity, Path::new("/keys/me"));
        let again = Profile::parse(&profile.to_toml(), Path::new("/else/client.toml")).unwrap();
        assert_eq!(again, profile);
    }

    /// Unknown keys, no nodes and bad addresses are refused with the file named.
    #[test]
    fn wrong_profiles_are_refused() {
        for (from, to, word) in [
            ("grpc", "grcp", "grcp"),
            ("[\"127.0.0.1:7053\"]", "[]", "no node"),
            ("127.0.0.1:7053", "7053", "host:port"),
            ("127.0.0.1:7053", "localhost:0", "host:port"),
        ] {
            let refused = Profile::parse(&GOOD.replace(from, to), Path::new("/net/client.toml"));
            let failure = refused.unwrap_err();
            assert!(failure.cause.contains(word), "{failure}");
            assert!(failure.cause.contains("/net/client.toml"), "{failure}");
        }
    }
}
