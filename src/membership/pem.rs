//! One DER value in PEM (RFC 7468): the text form of certificates and keys in files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroize;
use zeroize::Zeroizing;

/// Label of a certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// Label of a PKCS#8 private key.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Why a text is not the PEM that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No block of that label.
    #[error("it holds no \"-----BEGIN {label}-----\" block")]
    Missing { label: &'static str },
    /// More than one block, or text after it.
    #[error("it holds more than one {label} block")]
    Several { label: &'static str },
    /// The block is not base64.
    #[error("its {label} block is not base64")]
    Base64 { label: &'static str },
}

/// The text of one block, 64 columns.
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 80));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// The content of the one block of that label. Text before it (a description, as OpenSSL writes) is
/// passed over.
pub fn decode(label: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let (_, rest) = text.split_once(&begin).ok_or(PemError::Missing { label })?;
    let (body, rest) = rest.split_once(&end).ok_or(PemError::Missing { label })?;
    if rest.contains("-----BEGIN") {
        return Err(PemError::Several { label });
    }
    let mut body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let decoded = STANDARD.decode(&body);
    body.zeroize();
    decoded.map(Zeroizing::new).map_err(|_| PemError::Base64 { label })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: what is written is read back, at every length of the last line.
    #[test]
    fn a_block_is_read_back() {
        for len in 0..200 {
            let der = vec![0xA5; len];
            let text = encode(CERTIFICATE, &der);
            assert!(text.lines().all(|line| line.len() <= 64));
            assert_eq!(*decode(CERTIFICATE, &text).unwrap(), der);
        }
    }

    /// Aim: a key is not taken for a certificate, and garbage has its own error.
    #[test]
    fn other_text_is_refused() {
        let key = encode(PRIVATE_KEY, b"secret");
        let missing = Err(PemError::Missing { label: CERTIFICATE });
        assert_eq!(decode(CERTIFICATE, &key), missing);
        assert_eq!(decode(CERTIFICATE, "-----BEGIN CERTIFICATE-----\nAAAA"), missing);
        let twice = format!("{}{}", *key, *key);
        assert_eq!(decode(PRIVATE_KEY, &twice), Err(PemError::Several { label: PRIVATE_KEY }));
        let bad = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert_eq!(decode(CERTIFICATE, bad), Err(PemError::Base64 { label: CERTIFICATE }));
    }
}
