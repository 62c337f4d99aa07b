//! The configuration file of a membership service: TOML, every key known, every mistake named with
//! its fix.
//!
//! ```toml
//! [ca]
//! authority = "authority"       # folder with root.pem and key.pem (mode 0600)
//! register = "register.log"     # who may enrol and who did; `obelisk ca init` makes it
//! listen = "0.0.0.0:7054"
//! days = 365                    # validity of members' certificates
//! secret_seconds = 86400        # how long a one-time secret is good
//! ```
//!
//! Relative paths are relative to the file.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::node::config::ConfigError;
use crate::node::config::LogSection;
use crate::node::config::is_address;
use crate::node::config::parsed;
use crate::node::config::text_of;
use crate::types::limits;

/// A membership service's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaConfig {
    /// The service.
    pub ca: CaSection,
    /// The log.
    #[serde(default)]
    pub log: LogSection,
}

/// The service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaSection {
    /// Folder of the authority.
    pub authority: PathBuf,
    /// The register.
    pub register: PathBuf,
    /// Where it listens, host:port.
    pub listen: String,
    /// Validity of members' certificates, days.
    #[serde(default = "days")]
    pub days: u32,
    /// How long a one-time secret is good, seconds.
    #[serde(default = "secret_seconds")]
    pub secret_seconds: u64,
}

impl CaConfig {
    /// The given places, and defaults.
    pub fn new(authority: PathBuf, register: PathBuf, listen: String) -> Self {
        let (days, secret_seconds) = (days(), secret_seconds());
        let ca = CaSection { authority, register, listen, days, secret_seconds };
        Self { ca, log: LogSection::default() }
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&text_of(path)?, path)
    }

    /// Parses and checks the text of the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = parsed(text, path)?;
        let base = path.parent().unwrap_or_else(|| Path::new(""));
        for place in [&mut config.ca.authority, &mut config.ca.register] {
            *place = base.join(&*place);
        }
        config.check(path)?;
        Ok(config)
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every section is a table of plain values")
    }

    /// Refuses what could not be served.
    pub fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse =
            |key, reason: String| Err(ConfigError::Value { path: path.to_owned(), key, reason });
        if !is_address(&self.ca.listen) {
            return refuse("ca.listen", format!("{:?} is not host:port", self.ca.listen));
        }
        if !(1..=limits::VALIDITY_DAYS_MAX).contains(&self.ca.days) {
            return refuse("ca.days", format!("must be 1 to {}", limits::VALIDITY_DAYS_MAX));
        }
        if !(1..=SECRET_SECONDS_MAX).contains(&self.ca.secret_seconds) {
            return refuse("ca.secret_seconds", format!("must be 1 to {SECRET_SECONDS_MAX}"));
        }
        if !matches!(self.log.format.as_str(), "text" | "json") {
            return refuse("log.format", format!("{:?} is neither text nor json", self.log.format));
        }
        Ok(())
    }
}

fn days() -> u32 {
    365
}

fn secret_seconds() -> u64 {
    24 * 60 * 60
}

/// A secret that lies around for more than a month is no one-time secret.
const SECRET_SECONDS_MAX: u64 = 31 * 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;

    /// Defaults are filled in, paths are relative to the file, mistakes are named.
    #[test]
    fn files_are_read_and_mistakes_named() {
        let path = Path::new("/etc/obelisk-ca/ca.toml");
        let config = CaConfig::new("authority".into(), "/r".into(), "[::]:7054".into());
        let good = config.to_toml();
        let read = CaConfig::parse(&good, path).unwrap();
        assert_eq!(read.ca.authority, Path::new("/etc/obelisk-ca/authority"));
        assert_eq!((read.ca.register.as_path(), read.ca.days), (Path::new("/r"), 365));
        for (from, to, words) in [
            ("listen", "lisen", "did you mean `listen`"),
            ("[::]:7054", "7054", "host:port"),
            ("days = 365", "days = 0", "ca.days"),
            ("secret_seconds = 86400", "secret_seconds = 0", "ca.secret_seconds"),
            ("\"text\"", "\"xml\"", "log.format"),
        ] {
            assert!(good.contains(from), "{from} in {good}");
            let error = CaConfig::parse(&good.replace(from, to), path).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
