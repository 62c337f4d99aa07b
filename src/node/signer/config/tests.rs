//! A signer's configuration: what is read comes back, what contradicts itself is refused.

use super::*;

const GOOD: &str = "
    [signer]
    socket = \"s\"
    data = \"guard\"
    [[validator]]
    name = \"org1/validator\"
    genesis = \"genesis.bin\"
    key = { token = \"hsm\", id = \"01\", standby = [{ token = \"hsm\", id = \"02\" }] }
    [[token]]
    name = \"hsm\"
    module = \"/usr/lib/softhsm/libsofthsm2.so\"
    label = \"obelisk\"
    pin = \"pin\"
";

/// Paths are relative to the file, defaults are filled in, and the text comes back.
#[test]
fn a_file_comes_back_as_it_was() {
    let path = Path::new("/etc/obelisk/signer.toml");
    let config = SignerConfig::parse(GOOD, path).unwrap();
    assert_eq!(config.token[0].pin, Path::new("/etc/obelisk/pin"));
    assert_eq!(config.token[0].sessions, limits::TOKEN_SESSIONS);
    let again = SignerConfig::parse(&config.to_toml(), path).unwrap();
    assert_eq!(again.to_toml(), config.to_toml());
}

/// Each contradiction is refused with its key.
#[test]
fn contradictions_are_refused() {
    for (from, to, words) in [
        ("id = \"01\", standby", "id = \"0x\", standby", "hexadecimal"),
        ("token = \"hsm\", id = \"01\"", "token = \"other\", id = \"01\"", "no [[token]]"),
        ("token = \"hsm\", id = \"01\"", "file = \"f\", id = \"01\"", "for keys on tokens"),
        ("label = \"obelisk\"", "label = \"a\"\nslot = 3", "one of label"),
        ("pin = \"pin\"", "pin = \"pin\"\ncredential = \"pin\"", "PIN file"),
        ("pin = \"pin\"", "pni = \"pin\"", "did you mean `pin`"),
        ("name = \"hsm\"", "name = \"../hsm\"", "plain word"),
        ("org1/validator", "../validator", "organisation/name"),
        ("genesis =", "mode = \"fast\"\ngenesis =", "none of direct"),
        ("genesis =", "session_sequences = 3\ngenesis =", "must be 1024"),
        ("genesis =", "session_algorithm = \"rsa\"\ngenesis =", "neither ed25519"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replace(from, to);
        let error = SignerConfig::parse(&text, Path::new("signer.toml")).unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

/// A card stands for its key and brings its tokens, once; beside other words, and where it is not
/// there, it is refused.
#[test]
fn a_card_says_where_its_key_is() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let pkcs8 = Crypto::portable().generate(Algorithm::Ed25519).unwrap();
    let key = Crypto::portable().load(Algorithm::Ed25519, &pkcs8).unwrap();
    let token = TokenSection {
        name: "hsm".into(),
        module: "/usr/lib/softhsm/libsofthsm2.so".into(),
        label: "obelisk".into(),
        pin: at("pin"),
        ..TokenSection::default()
    };
    let place = KeySection::on_token("hsm", "01");
    KeyCard::new(&*key, place.clone(), token).unwrap().store(&at("key.toml")).unwrap();
    let (given, named) = GOOD.split_once("key = ").unwrap();
    let rest = named.split_once('\n').unwrap().1;
    let with = |key: &str, rest: &str| {
        SignerConfig::parse(&format!("{given}key = {key}\n{rest}"), &at("signer.toml"))
    };
    for tokens in ["", rest] {
        let config = with("{ card = \"key.toml\" }", tokens).unwrap();
        assert_eq!((&config.validator[0].key, config.token.len()), (&place, 1));
    }
    for (key, rest, words) in [
        ("{ card = \"key.toml\", id = \"01\" }", "", "nothing beside it"),
        ("{ card = \"none.toml\" }", "", "cannot read it"),
        ("{ card = \"key.toml\" }", &*rest.replace("label", "serial"), "two tokens are called"),
    ] {
        let error = with(key, rest).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}
