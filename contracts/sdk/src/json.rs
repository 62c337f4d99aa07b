//! JSON written by hand: what contracts answer and store is for people and their clients.
//!
//! Numbers are whole; there are no floats on a ledger.

use alloc::string::String;
use alloc::vec::Vec;

/// A JSON object or list that grows.
#[derive(Clone, Debug)]
pub struct Json {
    text: String,
    close: char,
}

impl Json {
    /// An empty object.
    pub fn object() -> Self {
        Self { text: String::from("{"), close: '}' }
    }

    /// An empty list.
    pub fn list() -> Self {
        Self { text: String::from("["), close: ']' }
    }

    /// A field of text.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.key(name);
        push_text(&mut self.text, value);
        self
    }

    /// A field that is a number.
    #[must_use]
    pub fn number(mut self, name: &str, value: u64) -> Self {
        self.key(name);
        push_number(&mut self.text, value);
        self
    }

    /// A field that is true or false.
    #[must_use]
    pub fn flag(mut self, name: &str, value: bool) -> Self {
        self.key(name);
        self.text.push_str(if value { "true" } else { "false" });
        self
    }

    /// A field that is JSON itself.
    #[must_use]
    pub fn json(mut self, name: &str, value: Self) -> Self {
        self.key(name);
        self.text.push_str(&value.finish());
        self
    }

    /// An item of a list.
    pub fn push(&mut self, value: Self) {
        self.comma();
        self.text.push_str(&value.finish());
    }

    /// An item of a list: text.
    pub fn push_text(&mut self, value: &str) {
        self.comma();
        push_text(&mut self.text, value);
    }

    /// The JSON text.
    pub fn finish(mut self) -> String {
        self.text.push(self.close);
        self.text
    }

    /// The JSON text as an answer.
    pub fn answer(self) -> crate::Answer {
        Ok(self.finish().into_bytes())
    }

    fn key(&mut self, name: &str) {
        self.comma();
        push_text(&mut self.text, name);
        self.text.push(':');
    }

    fn comma(&mut self) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
    }
}

impl From<Json> for Vec<u8> {
    fn from(json: Json) -> Self {
        json.finish().into_bytes()
    }
}

/// Appends a JSON string.
pub fn push_text(out: &mut String, value: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if u32::from(c) < 0x20 => {
                out.push_str("\\u00");
                out.push(HEX[c as usize >> 4] as char);
                out.push(HEX[c as usize & 15] as char);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Appends a decimal number.
pub fn push_number(out: &mut String, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    for digit in &digits[at..] {
        out.push(*digit as char);
    }
}

/// Reads a decimal number: digits only, without a leading zero, at most `u64::MAX`.
pub fn number(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || (bytes[0] == b'0' && bytes.len() > 1) {
        return None;
    }
    bytes.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        match digit < 10 {
            true => value.checked_mul(10)?.checked_add(u64::from(digit)),
            false => None,
        }
    })
}
