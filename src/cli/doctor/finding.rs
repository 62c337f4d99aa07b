//! What a check says: a result, the reason, and a command that mends it.

/// How bad it is, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Could not be asked, and why.
    Skipped,
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Works, and should be mended.
    Warning,
    /// Does not work, or is not safe.
    Error,
}

impl Outcome {
    /// The word in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The answer of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub outcome: Outcome,
    /// What was seen.
    pub reason: String,
    /// A command, or what to change; empty where nothing is to be done.
    pub fix: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(reason: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, reason, "")
    }

    /// Worth knowing.
    pub fn note(reason: impl Into<String>) -> Self {
        Self::new(Outcome::Note, reason, "")
    }

    /// Worth knowing, and can be bettered.
    pub fn advice(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Outcome::Note, reason, fix)
    }

    /// Could not be asked.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::new(Outcome::Skipped, reason, "")
    }

    /// Should be mended.
    pub fn warning(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Outcome::Warning, reason, fix)
    }

    /// Must be mended.
    pub fn error(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Outcome::Error, reason, fix)
    }

    /// What an error of a part below says: its text ends with `; fix`.
    pub fn refused(error: &dyn std::error::Error, fix: &str) -> Self {
        let failure =
            crate::cli::failure::Failure::of(crate::cli::failure::Exit::Refused, error, fix);
        Self::error(failure.cause, failure.fix)
    }

    fn new(outcome: Outcome, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { outcome, reason: reason.into(), fix: fix.into() }
    }
}

/// A check's way out: `Err` is what it says where it cannot go on.
pub type Answer = Result<Finding, Finding>;

/// One check.
#[derive(Clone, Copy)]
pub struct Check {
    /// `group.name`.
    pub id: &'static str,
    /// What is asked.
    pub about: &'static str,
    /// Asks it.
    pub run: fn(&super::scope::Scope) -> Answer,
}
