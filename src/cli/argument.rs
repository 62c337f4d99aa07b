//! Arguments of contracts as people type them.
//!
//! ```text
//! text        its UTF-8 bytes
//! hex:00ff    those bytes
//! @file       the content of a file
//! ```

use std::fs;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;

use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::types::digest::Digest;
use crate::types::limits;

/// The bytes of one argument.
pub fn bytes(text: &str) -> Result<Bytes, Failure> {
    if let Some(digits) = text.strip_prefix("hex:") {
        return hex::decode(digits).map(Bytes::from).map_err(|error| {
            let cause = format!("{text:?} is not hexadecimal: {error}");
            Failure::usage(cause, "write pairs of hex digits, as in hex:00ff")
        });
    }
    match text.strip_prefix('@') {
        Some(path) => file(Path::new(path)),
        None => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// The bytes of all arguments.
pub fn all(texts: &[String]) -> Result<Vec<Bytes>, Failure> {
    texts.iter().map(|text| bytes(text)).collect()
}

/// The content of a file that goes into a transaction, so not larger than one.
pub fn file(path: &Path) -> Result<Bytes, Failure> {
    limited(path, limits::TX_PAYLOAD_BYTES_MAX as u64)
}

/// The content of a file that holds a proof (a transaction and its path to a block's signatures) or
/// evidence.
pub fn proof_file(path: &Path) -> Result<Bytes, Failure> {
    limited(path, limits::API_MESSAGE_BYTES_MAX as u64)
}

fn limited(path: &Path, limit: u64) -> Result<Bytes, Failure> {
    let mut content = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut content))
        .map_err(|error| unreadable(path, &error))?;
    if content.len() as u64 > limit {
        let cause = format!("{} is larger than the {limit} bytes possible", path.display());
        return Err(Failure::usage(cause, "give a smaller file"));
    }
    Ok(Bytes::from(content))
}

/// A file that cannot be read.
pub fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let exit = match error.kind() {
        std::io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Usage,
    };
    let cause = format!("cannot read {}: {error}", path.display());
    Failure::new(exit, cause, "check the path and its permissions")
}

/// A transaction or certificate id: 64 hex digits. For clap.
pub fn digest(text: &str) -> Result<Digest, String> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each form gives the bytes it stands for, and bad ones name themselves.
    #[test]
    fn arguments_are_text_hex_or_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        fs::write(&path, [7, 8]).unwrap();
        assert_eq!(bytes("alice").unwrap(), "alice");
        assert_eq!(bytes("hex:00ff").unwrap(), [0, 255][..]);
        assert_eq!(bytes(&format!("@{}", path.display())).unwrap(), [7, 8][..]);
        assert_eq!(bytes("hex:0g").unwrap_err().exit, Exit::Usage);
        assert_eq!(bytes("@/no/such/file").unwrap_err().exit, Exit::NotFound);
    }
}
