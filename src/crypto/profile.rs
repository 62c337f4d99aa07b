//! What calibration chose, kept over restarts, so that a node does not change its mind over noise.
//!
//! A choice of the last start stands unless another provider is clearly faster now
//! (`choice::CLEARLY_PERCENT`). A profile of another machine, of other libraries or of another
//! release says nothing and is not used; so is one that cannot be read. It never makes a provider
//! usable that fails its known answers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

/// Choices, and for what they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Processor, release and libraries.
    pub made_for: String,
    /// Provider by operation, algorithm and class, as in `hash sha256 64 B`.
    pub choices: BTreeMap<String, String>,
}

impl Profile {
    /// Reads the text of a profile; an empty one where it is for something else or unreadable.
    pub fn parse(text: &str, processor: &str) -> Self {
        let made_for = made_for(processor);
        match toml::from_str::<Self>(text) {
            Ok(profile) if profile.made_for == made_for => profile,
            _ => Self { made_for, choices: BTreeMap::new() },
        }
    }

    /// The text of a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a table of plain strings")
    }

    pub(super) fn choice(&self, operation: &str, algorithm: &str, class: &str) -> Option<&str> {
        self.choices.get(&key(operation, algorithm, class)).map(String::as_str)
    }

    pub(super) fn record(&mut self, operation: &str, algorithm: &str, class: &str, name: &str) {
        self.choices.insert(key(operation, algorithm, class), name.to_owned());
    }
}

fn key(operation: &str, algorithm: &str, class: &str) -> String {
    format!("{operation} {algorithm} {class}")
}

/// A choice holds for one processor, one release (which pins its libraries) and one OpenSSL.
fn made_for(processor: &str) -> String {
    #[cfg(feature = "openssl")]
    let openssl = openssl::version::version();
    #[cfg(not(feature = "openssl"))]
    let openssl = "no OpenSSL";
    let version = env!("CARGO_PKG_VERSION");
    format!("{processor}; obelisk {version}; {openssl}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: a profile comes back as it was, and counts only on the machine it was made for.
    #[test]
    fn profiles_count_where_they_were_made() {
        let mut profile = Profile::parse("", "z16");
        assert!(profile.choices.is_empty());
        profile.record("hash", "sha256", "64 B", "openssl");
        let text = profile.to_toml();
        assert_eq!(Profile::parse(&text, "z16"), profile);
        assert_eq!(profile.choice("hash", "sha256", "64 B"), Some("openssl"));
        assert_eq!(profile.choice("hash", "sha256", "1 KiB"), None);
        assert!(Profile::parse(&text, "z15").choices.is_empty());
        assert!(Profile::parse(&format!("{text}\n[more]\n"), "z16").choices.is_empty());
        assert!(Profile::parse("\u{0}garbage", "z16").choices.is_empty());
    }
}
