//! What the fuzz targets share: the decoders of outside bytes, by name.

#[path = "../../tests/decoders.rs"]
pub mod decoders;

/// Runs a decoder on these bytes; panics where a promise is broken.
pub fn run(name: &str, bytes: &[u8]) {
    let found = decoders::DECODERS.iter().find(|decoder| decoder.name == name);
    let decoder = found.unwrap_or_else(|| panic!("no decoder {name} in this build"));
    (decoder.accepts)(bytes);
}
