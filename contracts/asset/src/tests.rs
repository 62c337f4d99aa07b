use obelisk_contract::mock::Mock;

use super::*;

fn mock() -> Mock {
    let mock = Mock::new("asset", FUNCTIONS);
    mock.caller("alpha", "ann");
    mock.call("open", &["a", "100"]).unwrap();
    mock.call("open", &["b", "5"]).unwrap();
    mock
}

/// Aim: a transfer moves the amount and keeps the sum.
#[test]
fn transfers_keep_the_sum() {
    let mock = mock();
    mock.call("transfer", &["a", "b", "30", "padding padding"]).unwrap();
    assert_eq!(mock.call("balance", &["a"]).unwrap(), "70");
    assert_eq!(mock.call("balance", &["b"]).unwrap(), "35");
    assert_eq!(mock.value("account/a").unwrap(), "70");
}

/// Aim: what cannot be is refused and changes nothing.
#[test]
fn impossible_transfers_are_refused() {
    let mock = mock();
    for (args, text) in [
        (["a", "b", "101"], "has 100, less than 101"),
        (["a", "a", "1"], "same account"),
        (["a", "c", "1"], "no account c"),
        (["a", "b", "-1"], "whole number"),
        (["a", "b", "01"], "whole number"),
        (["a", "b", "18446744073709551616"], "whole number"),
        (["a/b", "b", "1"], "letters"),
    ] {
        let refusal = mock.call("transfer", &args).unwrap_err();
        assert!(refusal.contains(text), "{refusal}");
    }
    mock.call("open", &["rich", "18446744073709551615"]).unwrap();
    assert!(mock.call("transfer", &["a", "rich", "1"]).unwrap_err().contains("largest"));
    assert_eq!(mock.call("balance", &["a"]).unwrap(), "100");
    assert!(mock.call("open", &["a", "1"]).unwrap_err().contains("exists"));
    assert!(mock.call("pay", &[]).unwrap_err().contains("transfer"));
}

/// Aim: an owned account moves only for its owner; anyone may pay into it.
#[test]
fn owned_accounts_obey_their_owner() {
    let mock = mock();
    mock.call("open", &["mine", "10", "owned"]).unwrap();
    mock.caller("beta", "bob");
    assert!(mock.call("transfer", &["mine", "a", "1"]).unwrap_err().contains("alpha/ann"));
    mock.call("transfer", &["a", "mine", "1"]).unwrap();
    mock.caller("alpha", "ann");
    mock.call("transfer", &["mine", "b", "11"]).unwrap();
    let shown = mock.call("show", &["mine"]).unwrap();
    assert_eq!(shown, r#"{"account":"mine","balance":0,"owner":"alpha/ann"}"#);
}

/// Aim: with an issuer, nobody else makes money.
#[test]
fn only_the_issuer_makes_money() {
    let mock = Mock::new("asset", FUNCTIONS);
    mock.caller("alpha", "admin").init(INIT, &["mint"]).unwrap();
    assert!(mock.call("open", &["a", "1"]).unwrap_err().contains("mint"));
    assert!(mock.call("open_many", &["a", "0", "3", "1"]).is_err());
    mock.call("open", &["a", "0"]).unwrap();
    mock.caller("mint", "teller").call("open_many", &["b", "7", "3", "1"]).unwrap();
    assert_eq!(mock.call("balance", &["b9"]).unwrap(), "1");
    assert!(mock.call("open_many", &["c", "0", "1001", "1"]).is_err());
}
