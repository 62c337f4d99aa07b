//! The one binary encoding of everything that is hashed, signed or stored.
//!
//! ```text
//! integer   big-endian, stated width          string   u16 length, UTF-8 bytes
//! bytes     u32 length, then the bytes        list     u32 count, then the items
//! digest    32 bytes                          option   u8 0 or 1, then the value
//! ```
//!
//! A value has exactly one encoding: readers refuse unknown tags, trailing bytes and lengths above
//! the limit the caller names. Reading shares the source buffer (`Bytes::slice`), so a decoded
//! batch is not copied.

use bytes::Bytes;

/// Why bytes were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The buffer ended inside a field.
    #[error("{field}: ends early, {missing} bytes missing")]
    Short { field: &'static str, missing: usize },
    /// A length or count above its limit.
    #[error("{field}: {found} is above the limit of {limit}")]
    TooLong { field: &'static str, found: usize, limit: usize },
    /// A value outside its range, or an unknown tag.
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: &'static str },
    /// Bytes left over after the value.
    #[error("{extra} bytes follow the end of the {field}")]
    Trailing { field: &'static str, extra: usize },
}

/// Writes a value in its one encoding.
pub trait Encode {
    /// Appends the value.
    fn encode(&self, w: &mut Writer);

    /// About how many bytes the value has; a wrong guess costs time only.
    fn size_hint(&self) -> usize {
        128
    }

    /// The value's bytes.
    fn to_bytes(&self) -> Bytes {
        let mut w = Writer::with_capacity(self.size_hint());
        self.encode(&mut w);
        w.finish()
    }
}

/// Reads a value from its one encoding.
pub trait Decode: Sized {
    /// Reads the value and leaves the reader behind it.
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Reads a value that fills the whole buffer.
    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let value = Self::decode(&mut r)?;
        r.end(std::any::type_name::<Self>())?;
        Ok(value)
    }
}

/// A growing buffer.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A writer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Bytes as they are, no length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_be_bytes());
    }

    /// A count or length as u32. Values above u32 are our own bug: every producer stays below
    /// `limits`.
    pub fn count(&mut self, value: usize) {
        self.u32(u32::try_from(value).expect("counts stay below their limits"));
    }

    /// Length-prefixed bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// A length-prefixed string.
    pub fn string(&mut self, text: &str) {
        self.u16(u16::try_from(text.len()).expect("strings stay below their limits"));
        self.raw(text.as_bytes());
    }

    /// A list of values.
    pub fn list<T: Encode>(&mut self, items: &[T]) {
        self.count(items.len());
        for item in items {
            item.encode(self);
        }
    }

    /// An optional value.
    pub fn option<T: Encode>(&mut self, value: Option<&T>) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                value.encode(self);
            }
        }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True before the first write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was written.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Forgets what was written and keeps the room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The buffer.
    pub fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// A position in a shared buffer.
pub struct Reader<'a> {
    source: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `source`.
    pub fn new(source: &'a Bytes) -> Self {
        Self { source, at: 0 }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.source.len() - self.at
    }

    /// Position from the start of the source, in bytes.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Refuses trailing bytes.
    pub fn end(&self, field: &'static str) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { field, extra }),
        }
    }

    /// `len` bytes, sharing the source's memory.
    pub fn raw(&mut self, field: &'static str, len: usize) -> Result<Bytes, DecodeError> {
        let start = self.take(field, len)?;
        Ok(self.source.slice(start..start + len))
    }

    /// A fixed number of bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let start = self.take(field, N)?;
        Ok(self.source[start..start + N].try_into().expect("N bytes were taken"))
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|b| b[0])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A u32 count of at most `limit`.
    pub fn count(&mut self, field: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let found = self.u32(field)? as usize;
        if found > limit {
            return Err(DecodeError::TooLong { field, found, limit });
        }
        Ok(found)
    }

    /// Length-prefixed bytes of at most `limit`, sharing the source's memory.
    pub fn bytes(&mut self, field: &'static str, limit: usize) -> Result<Bytes, DecodeError> {
        let len = self.count(field, limit)?;
        self.raw(field, len)
    }

    /// A length-prefixed string of at most `limit` bytes.
    pub fn string(&mut self, field: &'static str, limit: usize) -> Result<String, DecodeError> {
        let found = usize::from(self.u16(field)?);
        if found > limit {
            return Err(DecodeError::TooLong { field, found, limit });
        }
        let start = self.take(field, found)?;
        match std::str::from_utf8(&self.source[start..start + found]) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(DecodeError::Invalid { field, reason: "not UTF-8" }),
        }
    }

    /// A list of at most `limit` values. Memory grows with the bytes present, not with the count
    /// claimed.
    pub fn list<T: Decode>(
        &mut self,
        field: &'static str,
        limit: usize,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count(field, limit)?;
        let mut items = Vec::with_capacity(count.min(self.remaining()).min(PREALLOCATED_ITEMS_MAX));
        for _ in 0..count {
            items.push(T::decode(self)?);
        }
        Ok(items)
    }

    /// An optional value.
    pub fn option<T: Decode>(&mut self, field: &'static str) -> Result<Option<T>, DecodeError> {
        match self.u8(field)? {
            0 => Ok(None),
            1 => T::decode(self).map(Some),
            _ => Err(DecodeError::Invalid { field, reason: "an option is 0 or 1" }),
        }
    }

    fn take(&mut self, field: &'static str, len: usize) -> Result<usize, DecodeError> {
        if self.remaining() < len {
            return Err(DecodeError::Short { field, missing: len - self.remaining() });
        }
        let start = self.at;
        self.at += len;
        Ok(start)
    }
}

/// A claimed count reserves room for at most this many items before the first one is read.
const PREALLOCATED_ITEMS_MAX: usize = 1024;
