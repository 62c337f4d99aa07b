//! What commands print: aligned text for people, JSON for scripts (`--json`), in one place.
//!
//! People see short hashes in tables; JSON always carries whole ones. A closed pipe (`| head`) ends
//! the command quietly, as it does for every Unix tool.

use std::fmt::Write as _;
use std::io;
use std::io::Write as _;

use serde_json::Map;
use serde_json::Value;

use crate::types::digest::Digest;

/// One printed value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A whole number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// An id that people copy: always whole.
    Id(Digest),
    /// A hash that people compare at a glance: short for them, whole in JSON.
    Hash(Digest),
    /// Milliseconds since 1970.
    Time(u64),
    /// Bytes of a contract: text where they are text, else `hex:...`.
    Bytes(Vec<u8>),
    /// A list of values.
    List(Vec<Cell>),
    /// Nothing there.
    None,
}

/// Where a command writes.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON or text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// True where JSON was asked for.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// One thing with named properties. Names are written as in text, `state root`.
    pub fn object(self, fields: &[(&str, Cell)]) {
        if self.json {
            return self.value(&object_json(fields));
        }
        let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, cell) in fields {
            let shown = cell.text().replace('\n', &format!("\n{:width$}  ", ""));
            let line = format!("{name:width$}  {shown}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        print(&text);
    }

    /// Many things with the same properties; `nothing` is printed to people where there are none.
    pub fn table(self, columns: &[&str], rows: &[Vec<Cell>], nothing: &str) {
        if self.json {
            let rows = rows.iter().map(|row| row_json(columns, row)).collect();
            return self.value(&Value::Array(rows));
        }
        if rows.is_empty() {
            return print(&format!("{nothing}\n"));
        }
        print(&aligned(columns, rows));
    }

    /// One line of a stream: text for people, one JSON object per line for scripts.
    pub fn line(self, text: &str, fields: &[(&str, Cell)]) {
        match self.json {
            true => self.value(&object_json(fields)),
            false => print(&format!("{text}\n")),
        }
    }

    /// Text for people only; JSON readers get their answer elsewhere.
    pub fn note(self, text: &str) {
        if !self.json {
            print(&format!("{text}\n"));
        }
    }

    /// JSON as it is.
    pub fn value(self, value: &Value) {
        print(&format!("{value}\n"));
    }
}

impl Cell {
    /// Text.
    pub fn text_of(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The value, or nothing.
    pub fn maybe(value: Option<Self>) -> Self {
        value.unwrap_or(Self::None)
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::Id(digest) => digest.to_string(),
            Self::Hash(digest) => hex::encode(&digest.0[..SHORT_BYTES]),
            Self::Time(ms) => time(*ms),
            Self::Bytes(bytes) => bytes_text(bytes),
            Self::List(items) if items.is_empty() => "-".to_owned(),
            Self::List(items) => items.iter().map(Self::text).collect::<Vec<_>>().join("\n"),
            Self::None => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Number(number) => Value::from(*number),
            Self::Flag(flag) => Value::from(*flag),
            Self::Id(digest) | Self::Hash(digest) => Value::from(digest.to_string()),
            Self::Time(ms) => Value::from(*ms),
            Self::Bytes(bytes) => Value::from(bytes_text(bytes)),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::None => Value::Null,
        }
    }
}

/// Bytes as commands read and print them: text, or `hex:` and digits. Text that begins with one of
/// the prefixes of arguments is printed as hex, so that output can be given back as an argument.
pub fn bytes_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if printable(text) => text.to_owned(),
        _ => format!("hex:{}", hex::encode(bytes)),
    }
}

/// Text from the network with its control characters made visible, so that nobody moves a
/// reader's cursor.
pub fn tame(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// Milliseconds since 1970 as UTC, `2026-11-22T18:09:46.123Z`.
pub fn time(ms: u64) -> String {
    let (days, rest) = (ms / DAY_MS, ms % DAY_MS);
    let (year, month, day) = civil(days);
    let (seconds, ms) = (rest / 1000, rest % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Day of the Gregorian calendar from days since 1970 (Hinnant, `civil_from_days`, for days that
/// are not negative).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn printable(text: &str) -> bool {
    let escapes = text.starts_with("hex:") || text.starts_with('@');
    !escapes && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
}

fn object_json(fields: &[(&str, Cell)]) -> Value {
    let pairs = fields.iter().map(|(name, cell)| (name.replace([' ', '-'], "_"), cell.json()));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn row_json(columns: &[&str], row: &[Cell]) -> Value {
    let fields: Vec<_> = columns.iter().copied().zip(row.iter().cloned()).collect();
    object_json(&fields)
}

/// Columns two spaces apart, numbers to the right.
fn aligned(columns: &[&str], rows: &[Vec<Cell>]) -> String {
    let texts: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| cell.text().replace('\n', " ")).collect())
        .collect();
    let width = |column: usize| {
        let cells = texts.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count());
        cells.chain([columns[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let right = |column: usize| {
        rows.iter().all(|row| matches!(row.get(column), Some(Cell::Number(_) | Cell::None)))
    };
    let mut out = String::new();
    let heads: Vec<String> = columns.iter().map(|name| name.to_uppercase()).collect();
    for row in std::iter::once(&heads).chain(&texts) {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            let width = widths[column];
            let _ = match right(column) {
                true => write!(line, "{text:>width$}  "),
                false => write!(line, "{text:<width$}  "),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// Writes to standard output; a reader that went away ends the process without noise.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("error: cannot write the answer: {error}\nfix: check where output goes");
            std::process::exit(70);
        }
        std::process::exit(0);
    }
}

/// Of a hash that people see in tables.
const SHORT_BYTES: usize = 6;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Known moments, leap days and ends of years among them.
    #[test]
    fn times_are_utc_and_gregorian() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(ms), text);
        }
    }

    /// What is printed can be given back as an argument without changing its meaning.
    #[test]
    fn bytes_are_text_only_where_text_is_unambiguous() {
        assert_eq!(bytes_text(b"alice"), "alice");
        assert_eq!(bytes_text(&[0, 255]), "hex:00ff");
        assert_eq!(bytes_text(b"hex:1"), "hex:6865783a31");
        assert_eq!(bytes_text(b"@file"), "hex:4066696c65");
        assert_eq!(bytes_text(b"\x1b[2J"), "hex:1b5b324a");
    }

    /// Columns line up, numbers to the right, short hashes for people.
    #[test]
    fn tables_line_up() {
        let digest = Digest([0xab; 32]);
        let rows = vec![
            vec![Cell::Number(7), Cell::text_of("org1"), Cell::Hash(digest)],
            vec![Cell::Number(1234), Cell::text_of("organisation"), Cell::None],
        ];
        let text = aligned(&["height", "name", "hash"], &rows);
        let expected = "HEIGHT  NAME          HASH\n     7  org1          abababababab\n  \
                        1234  organisation  -\n";
        assert_eq!(text, expected);
        let json = row_json(&["height", "name", "state root"], &rows[0]);
        assert_eq!(json["state_root"], digest.to_string());
    }

    /// Control characters from outside become visible.
    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(tame("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
