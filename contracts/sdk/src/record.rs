//! A record of named values, stored as one flat JSON object, so that whoever reads the state reads
//! it with plain eyes.
//!
//! Values are text, whole numbers, `true` and `false`. Fields keep the order in which they were
//! first set, so equal histories store equal bytes.

use alloc::string::String;
use alloc::vec::Vec;

use crate::Refusal;
use crate::json;
use crate::json::Json;
use crate::refuse;
use crate::state;

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
}

/// A record of named values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(Vec<(String, Value)>);

impl Record {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// The record stored under a key.
    pub fn load(key: &str) -> Option<Self> {
        let bytes = state::get(key)?;
        Some(Self::parse(&bytes).expect("records are written by this contract"))
    }

    /// The record stored under a key, or a refusal that names it.
    pub fn require(key: &str) -> Result<Self, Refusal> {
        match Self::load(key) {
            Some(record) => Ok(record),
            None => refuse(["there is no ", key].concat()),
        }
    }

    /// Stores the record.
    pub fn store(&self, key: &str) {
        state::put(key, self.json().finish());
    }

    /// Text of a field; empty where it is not set.
    pub fn text(&self, name: &str) -> &str {
        match self.find(name) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// Number of a field; 0 where it is not set.
    pub fn number(&self, name: &str) -> u64 {
        match self.find(name) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    /// True where the field is `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.find(name) == Some(&Value::Flag(true))
    }

    /// True where the field is set.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Sets text.
    pub fn set_text(&mut self, name: &str, value: &str) -> &mut Self {
        self.set(name, Value::Text(String::from(value)))
    }

    /// Sets a number.
    pub fn set_number(&mut self, name: &str, value: u64) -> &mut Self {
        self.set(name, Value::Number(value))
    }

    /// Sets `true` or `false`.
    pub fn set_flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.set(name, Value::Flag(value))
    }

    /// Removes a field.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.0.retain(|(known, _)| known != name);
        self
    }

    /// The record as JSON, to which more fields may be added.
    pub fn json(&self) -> Json {
        self.0.iter().fold(Json::object(), |json, (name, value)| match value {
            Value::Text(text) => json.text(name, text),
            Value::Number(number) => json.number(name, *number),
            Value::Flag(flag) => json.flag(name, *flag),
        })
    }

    /// Reads what `json` wrote.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut parser = Parser(core::str::from_utf8(bytes).ok()?);
        let mut record = Self::new();
        parser.take('{')?;
        if parser.take('}').is_some() {
            return parser.0.is_empty().then_some(record);
        }
        loop {
            let name = parser.text()?;
            parser.take(':')?;
            let value = parser.value()?;
            record.0.push((name, value));
            if parser.take('}').is_some() {
                return parser.0.is_empty().then_some(record);
            }
            parser.take(',')?;
        }
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn set(&mut self, name: &str, value: Value) -> &mut Self {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((String::from(name), value)),
        }
        self
    }
}

/// Reads exactly the JSON that `Json` writes: no white space, no nesting.
struct Parser<'a>(&'a str);

impl Parser<'_> {
    fn take(&mut self, c: char) -> Option<()> {
        self.0 = self.0.strip_prefix(c)?;
        Some(())
    }

    fn value(&mut self) -> Option<Value> {
        if self.0.starts_with('"') {
            return self.text().map(Value::Text);
        }
        let end = self.0.find([',', '}'])?;
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        match token {
            "true" => Some(Value::Flag(true)),
            "false" => Some(Value::Flag(false)),
            _ => json::number(token.as_bytes()).map(Value::Number),
        }
    }

    fn text(&mut self) -> Option<String> {
        self.take('"')?;
        let mut text = String::new();
        loop {
            let plain = self.0.find(['"', '\\'])?;
            text.push_str(&self.0[..plain]);
            self.0 = &self.0[plain..];
            if self.take('"').is_some() {
                return Some(text);
            }
            self.take('\\')?;
            let escape = self.0.chars().next()?;
            self.take(escape)?;
            match escape {
                '"' | '\\' => text.push(escape),
                'n' => text.push('\n'),
                'u' => {
                    let code = u32::from_str_radix(self.0.get(..4)?, 16).ok()?;
                    text.push(char::from_u32(code)?);
                    self.0 = &self.0[4..];
                }
                _ => return None,
            }
        }
    }
}
