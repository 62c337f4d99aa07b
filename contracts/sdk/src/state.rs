//! The contract's own part of the world state. Reads see the writes of the running transaction.

use alloc::string::String;
use alloc::vec::Vec;

use crate::host;
use crate::wire;

/// The value of a key.
pub fn get(key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    host::get(key.as_ref())
}

/// Sets a key.
pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    host::put(key.as_ref(), value.as_ref());
}

/// Removes a key.
pub fn delete(key: impl AsRef<[u8]>) {
    host::delete(key.as_ref());
}

/// Up to `limit` entries with `start <= key < end`, ascending; an empty `end` is the end.
pub fn scan(
    start: impl AsRef<[u8]>,
    end: impl AsRef<[u8]>,
    limit: usize,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    wire::entries(&host::scan(start.as_ref(), end.as_ref(), limit))
}

/// Up to `limit` entries whose key is `prefix` and more, behind `after` where it is not empty; the
/// prefix is cut off the keys.
pub fn list(prefix: &str, after: &str, limit: usize) -> Vec<(String, Vec<u8>)> {
    // 0xFF stands behind every byte of UTF-8; the zero byte makes the start exclusive.
    let end = [prefix.as_bytes(), &[0xFF]].concat();
    let start = match after {
        "" => prefix.as_bytes().to_vec(),
        after => [prefix.as_bytes(), after.as_bytes(), &[0]].concat(),
    };
    let name = |key: &[u8]| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
    scan(start, end, limit).into_iter().map(|(key, value)| (name(&key), value)).collect()
}
