//! Why a command did not do what was asked: an exit code, the cause, and what to do about it.
//!
//! The modules below write their errors as `cause; fix`, with further causes behind `source`. Here
//! they become two lines, `error: cause` and `fix: what to do`, and one number.

use std::error::Error;
use std::fmt;

/// Exit codes of the command line. 0 means that all was done as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The network or a contract refused, or a proof or a ledger does not hold.
    Refused = 1,
    /// The request, or a file it names, is wrong; nothing was attempted.
    Usage = 2,
    /// No node answered.
    Unreachable = 3,
    /// What was asked for does not exist.
    NotFound = 4,
    /// Everything works, and something should be mended (doctor).
    Warned = 5,
    /// A part of the program or of the machine failed (EX_SOFTWARE of sysexits.h).
    Internal = 70,
    /// Trying again makes it worse: a PIN was refused (EX_CONFIG of sysexits.h).
    Final = 78,
}

/// A refusal to the person or script that called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// What happened.
    pub cause: String,
    /// What to do.
    pub fix: String,
}

impl Exit {
    /// The word in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::NotFound => "not-found",
            Self::Warned => "warned",
            Self::Internal => "internal",
            Self::Final => "final",
        }
    }
}

impl Failure {
    /// A failure in the command line's own words.
    pub fn new(exit: Exit, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { exit, cause: cause.into(), fix: fix.into() }
    }

    /// A wrong request.
    pub fn usage(cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Exit::Usage, cause, fix)
    }

    /// An error of a module below with all its causes. What stands behind the last semicolon of its
    /// text is the fix; `fix` stands in where there is none.
    pub fn of(exit: Exit, error: &dyn Error, fix: &str) -> Self {
        let text = error.to_string();
        let (cause, told) = match text.rsplit_once("; ") {
            Some((cause, told)) => (cause.to_owned(), told.to_owned()),
            None => (text.clone(), fix.to_owned()),
        };
        let mut cause = cause;
        let mut last = text;
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            // Transparent wrappers repeat their source's text.
            if !last.contains(&text) {
                cause = format!("{cause}: {text}");
            }
            last = text;
            source = error.source();
        }
        Self { exit, cause, fix: told }
    }

    /// As one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": {
                "exit": self.exit as u8,
                "kind": self.exit.name(),
                "cause": self.cause,
                "fix": self.fix,
            }
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.exit == Exit::Warned { "warning" } else { "error" };
        write!(f, "{word}: {}\nfix: {}", self.cause.trim_end(), self.fix.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read {path}; name another file")]
    struct Outer {
        path: &'static str,
        source: std::io::Error,
    }

    /// Cause, deeper causes and fix of a typed error come out as two lines.
    #[test]
    fn typed_errors_become_cause_and_fix() {
        let source = std::io::Error::other("disk on fire");
        let failure = Failure::of(Exit::Usage, &Outer { path: "a.toml", source }, "");
        let expected = "error: cannot read a.toml: disk on fire\nfix: name another file";
        assert_eq!(failure.to_string(), expected);
        assert_eq!(failure.to_json()["error"]["exit"], 2);
    }

    /// Where everything works, what should be mended is no error.
    #[test]
    fn warnings_are_called_so() {
        let failure = Failure::new(Exit::Warned, "1 warns".to_owned(), "mend it");
        assert_eq!(failure.to_string(), "warning: 1 warns\nfix: mend it");
    }

    /// An error without a fix takes the caller's.
    #[test]
    fn errors_without_a_fix_take_the_given_one() {
        let error = std::io::Error::other("broken");
        let failure = Failure::of(Exit::Internal, &error, "restart");
        assert_eq!((failure.cause.as_str(), failure.fix.as_str()), ("broken", "restart"));
    }
}
