//! The log: one line per event on standard error, for people or for machines.
//!
//! Levels come from one string, for instance `info,obelisk::network=debug`: a level for all, then
//! exceptions by module. Text that peers or clients choose must be logged as a quoted field
//! (`?field`): quoting escapes control characters, so nobody writes log lines of their own.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level string.
    #[error("log levels \"{levels}\" are not understood: {reason}; write like info,obelisk=debug")]
    Levels {
        /// As given.
        levels: String,
        /// The cause.
        reason: String,
    },
    /// Set up twice.
    #[error("the log is already set up")]
    Again,
}

impl Format {
    /// From its name in the configuration: `text` or `json`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Checks a level string without setting anything up.
pub fn check_levels(levels: &str) -> Result<(), LogError> {
    filter(levels).map(drop)
}

/// Sends all events of this process to standard error from now on.
pub fn start(levels: &str, format: Format) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(levels)?)
        .with_writer(std::io::stderr)
        .with_ansi(format == Format::Text && std::io::stderr().is_terminal());
    let started = match format {
        Format::Text => builder.with_target(true).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| LogError::Again)
}

fn filter(levels: &str) -> Result<EnvFilter, LogError> {
    let refused = |reason| LogError::Levels { levels: levels.to_owned(), reason };
    // The library takes a word that is no level for a module's name, and logs nothing else.
    let alone = levels.split(',').map(str::trim).filter(|part| !part.contains('='));
    for word in alone.filter(|word| !word.is_empty()) {
        if word.parse::<LevelFilter>().is_err() {
            return Err(refused(format!(
                "{word:?} is none of off, error, warn, info, debug, trace"
            )));
        }
    }
    EnvFilter::builder().parse(levels).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Level strings are accepted or refused with the string named.
    #[test]
    fn level_strings_are_checked() {
        for good in ["info", "warn,obelisk::network=debug", "obelisk=trace", ""] {
            check_levels(good).unwrap();
        }
        let error = check_levels("info,obelisk=loud").unwrap_err().to_string();
        assert!(error.contains("loud"), "{error}");
        for typo in ["eror", "warning", "info,obelisk", "inf,obelisk=debug"] {
            let error = check_levels(typo).unwrap_err().to_string();
            assert!(error.contains("is none of off, error"), "{error}");
        }
    }

    /// Formats have names.
    #[test]
    fn formats_have_names() {
        assert_eq!(Format::from_name("json"), Some(Format::Json));
        assert_eq!(Format::from_name("text"), Some(Format::Text));
        assert_eq!(Format::from_name("xml"), None);
    }
}
