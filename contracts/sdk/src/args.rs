//! Arguments: byte strings, read as text so that a contract can be called from a command line.

use alloc::string::String;
use alloc::vec::Vec;

use crate::Refusal;
use crate::date::Date;
use crate::json;
use crate::refuse;

/// The arguments of a call.
#[derive(Clone, Debug, Default)]
pub struct Args(Vec<Vec<u8>>);

impl Args {
    /// Arguments as they are.
    pub fn new(args: Vec<Vec<u8>>) -> Self {
        Self(args)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses a wrong number of arguments and says what is expected.
    pub fn count(&self, count: usize, form: &'static str) -> Result<(), Refusal> {
        self.between(count, count, form)
    }

    /// Refuses a number of arguments outside `least..=most` and says what is expected.
    pub fn between(&self, least: usize, most: usize, form: &'static str) -> Result<(), Refusal> {
        if (least..=most).contains(&self.0.len()) {
            return Ok(());
        }
        let mut text = String::from("expected ");
        text.push_str(form);
        text.push_str(", got ");
        json::push_number(&mut text, self.0.len() as u64);
        text.push_str(" arguments");
        refuse(text)
    }

    /// An argument as it is; empty where it was not given.
    pub fn bytes(&self, at: usize) -> &[u8] {
        self.0.get(at).map(Vec::as_slice).unwrap_or_default()
    }

    /// An argument as text that is not empty.
    pub fn text(&self, at: usize, what: &str) -> Result<&str, Refusal> {
        match core::str::from_utf8(self.bytes(at)) {
            Ok(text) if !text.is_empty() => Ok(text),
            _ => wrong(what, "expected text"),
        }
    }

    /// An argument that becomes part of a key: letters, digits, '-', '_' and '.', at most 64.
    pub fn name(&self, at: usize, what: &str) -> Result<&str, Refusal> {
        let text = self.text(at, what)?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        match text.len() <= 64 && text.bytes().all(fits) {
            true => Ok(text),
            false => wrong(what, "expected at most 64 letters, digits, '-', '_' or '.'"),
        }
    }

    /// An argument as a decimal number.
    pub fn number(&self, at: usize, what: &str) -> Result<u64, Refusal> {
        match json::number(self.bytes(at)) {
            Some(number) => Ok(number),
            None => wrong(what, "expected a whole number"),
        }
    }

    /// An argument as a date, YYYY-MM-DD.
    pub fn date(&self, at: usize, what: &str) -> Result<Date, Refusal> {
        match Date::parse(self.text(at, what)?) {
            Some(date) => Ok(date),
            None => wrong(what, "expected a date, YYYY-MM-DD"),
        }
    }

    /// An argument as `yes` or `no`.
    pub fn flag(&self, at: usize, what: &str) -> Result<bool, Refusal> {
        match self.bytes(at) {
            b"yes" => Ok(true),
            b"no" => Ok(false),
            _ => wrong(what, "expected yes or no"),
        }
    }
}

fn wrong<T>(what: &str, expected: &str) -> Result<T, Refusal> {
    let mut text = String::from(what);
    text.push_str(": ");
    text.push_str(expected);
    refuse(text)
}
