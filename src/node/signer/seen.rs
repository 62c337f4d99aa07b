//! The public half of a key on a token, as a start last saw it there: `<name>.public` in the signer's
//! folder, one line of text.
//!
//! ```text
//! p256 04a1...
//! ```
//!
//! With it a signer starts while the token is away: it names the key to the node, opens its guard and
//! its session keys, whose certificates it checks with it. It never makes a key usable: what a token
//! shows later must be this key. A file that is missing or damaged is as good as none.

use std::fs;
use std::path::Path;

use crate::signer::guard::disk;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;

/// What was seen, where anything was.
pub fn read(path: &Path) -> Option<PublicKey> {
    let text = fs::read_to_string(path).ok()?;
    let public = parse(text.trim());
    if public.is_none() {
        tracing::warn!(path = %path.display(), "not a public key; it is written anew");
    }
    public
}

/// Keeps what a token shows.
pub fn keep(path: &Path, public: &PublicKey) {
    if read(path).as_ref() == Some(public) {
        return;
    }
    let text = format!("{} {}\n", public.algorithm().name(), hex::encode(public.as_bytes()));
    if let Err(error) = disk::replace(path, text.as_bytes()) {
        let path = path.display();
        tracing::warn!(%error, %path, "a start without the token will not know its key");
    }
}

fn parse(text: &str) -> Option<PublicKey> {
    let (algorithm, key) = text.split_once(' ')?;
    PublicKey::new(Algorithm::from_name(algorithm)?, &hex::decode(key).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::Secret;

    /// What is kept comes back; what is damaged is nothing.
    #[test]
    fn what_was_seen_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.public");
        assert_eq!(read(&path), None);
        for algorithm in Algorithm::ALL {
            let public = Secret::random(algorithm).unwrap().public;
            keep(&path, &public);
            assert_eq!(read(&path), Some(public));
        }
        for text in ["", "p256", "p256 00", "rsa 00", "p256 zz"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), None, "{text}");
        }
    }
}
