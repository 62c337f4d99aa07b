use obelisk_contract::mock::Mock;

use super::*;

/// A farm with 1000 kg of wheat.
fn farm() -> Mock {
    let mock = Mock::new("provenance", FUNCTIONS);
    mock.caller("farm", "fay");
    mock.call("create", &["wheat1", "wheat", "1000", "kg", "field 7"]).unwrap();
    mock
}

fn number(text: &str, name: &str) -> u64 {
    Record::parse(text.as_bytes()).unwrap().number(name)
}

fn refused(result: Result<String, String>, text: &str) {
    let refusal = result.expect_err(text);
    assert!(refusal.contains(text), "{refusal}");
}

/// Present quantity by the book, and by counting the open lots.
fn present(mock: &Mock, product: &str, lots: &[&str]) -> (u64, u64) {
    let book = mock.call("book", &[product, "kg"]).unwrap();
    let open = lots.iter().map(|lot| mock.call("show", &[lot]).unwrap());
    let open = open.filter(|lot| lot.contains(r#""status":"open""#));
    (number(&book, "present"), open.map(|lot| number(&lot, "quantity")).sum())
}

/// Aim: wheat becomes flour becomes biscuits, and the box is traced back to the field.
#[test]
fn biscuits_come_from_a_field() {
    let mock = farm();
    mock.call("split", &["wheat1", "wheat2", "600", "wheat3", "400"]).unwrap();
    mock.call("send", &["wheat2", "mill"]).unwrap();
    mock.caller("mill", "max").call("receive", &["wheat2"]).unwrap();
    mock.call("declare", &["milling", "flour", "kg", "kg", "800"]).unwrap();
    mock.call("transform", &["flour1", "milling", "450", "wheat2"]).unwrap();
    mock.call("send", &["flour1", "bakery"]).unwrap();
    mock.caller("bakery", "bea").call("receive", &["flour1"]).unwrap();
    mock.call("create", &["sugar1", "sugar", "100", "kg", "bought"]).unwrap();
    mock.call("declare", &["biscuits", "biscuits", "box", "kg", "2000"]).unwrap();
    mock.call("transform", &["box1", "biscuits", "1100", "flour1", "sugar1"]).unwrap();
    let trace = mock.call("trace", &["box1"]).unwrap();
    for lot in ["box1", "flour1", "sugar1", "wheat2", "wheat1"] {
        assert!(trace.contains(&["\"lot\":\"", lot, "\""].concat()), "{trace}");
    }
    assert!(!trace.contains("wheat3") && trace.contains("field 7"));
    assert!(trace.contains(r#""custody":"farm""#) && trace.ends_with(r#""complete":true}"#));
    let wheat = mock.call("book", &["wheat", "kg"]).unwrap();
    assert_eq!((number(&wheat, "used"), number(&wheat, "present")), (600, 400));
}

/// Aim: parts add up to the whole, and the book agrees with the open lots.
#[test]
fn quantity_is_conserved() {
    let mock = farm();
    for parts in [["500", "499"], ["500", "501"], ["1001", "0"], ["1000", "0"]] {
        let args = ["wheat1", "a", parts[0], "b", parts[1]];
        assert!(mock.call("split", &args).is_err(), "{parts:?}");
    }
    refused(mock.call("split", &["wheat1", "a", "18446744073709551615", "b", "1001"]), "too large");
    refused(mock.call("split", &["wheat1", "a", "500", "a", "500"]), "exists");
    mock.call("split", &["wheat1", "a", "1", "b", "999"]).unwrap();
    mock.call("split", &["b", "c", "500", "d", "499"]).unwrap();
    mock.call("merge", &["e", "a", "d"]).unwrap();
    let lots = ["wheat1", "a", "b", "c", "d", "e"];
    assert_eq!(present(&mock, "wheat", &lots), (1000, 1000));
    mock.call("remove", &["c", "mould"]).unwrap();
    assert_eq!(present(&mock, "wheat", &lots), (500, 500));
}

/// Aim: a lot that was used, split, merged or removed cannot be used again.
#[test]
fn closed_lots_stay_closed() {
    let mock = farm();
    mock.call("split", &["wheat1", "a", "400", "b", "600"]).unwrap();
    refused(mock.call("split", &["wheat1", "c", "400", "d", "600"]), "is split");
    refused(mock.call("send", &["wheat1", "mill"]), "is split");
    mock.call("merge", &["e", "a", "b"]).unwrap();
    refused(mock.call("merge", &["f", "a", "e"]), "is merged");
    refused(mock.call("merge", &["f", "e", "e"]), "twice");
    mock.call("remove", &["e", "eaten"]).unwrap();
    refused(mock.call("remove", &["e", "eaten"]), "is removed");
    refused(mock.call("create", &["e", "wheat", "5", "kg", "field"]), "used once");
}

/// Aim: only the holder acts, an offered lot waits, custody changes at receipt.
#[test]
fn custody_changes_hands_once_received() {
    let mock = farm();
    mock.caller("mill", "max");
    refused(mock.call("send", &["wheat1", "mill"]), "held by farm");
    refused(mock.call("receive", &["wheat1"]), "not offered");
    mock.caller("farm", "fay").call("send", &["wheat1", "mill"]).unwrap();
    refused(mock.call("remove", &["wheat1", "eaten"]), "offered to mill");
    refused(mock.caller("thief", "t").call("receive", &["wheat1"]), "not offered to the caller");
    refused(mock.call("return", &["wheat1"]), "only the holder");
    mock.caller("mill", "max").call("return", &["wheat1"]).unwrap();
    refused(mock.call("receive", &["wheat1"]), "not offered");
    mock.caller("farm", "fay").call("send", &["wheat1", "mill"]).unwrap();
    mock.caller("mill", "max").call("receive", &["wheat1"]).unwrap();
    refused(mock.caller("farm", "fay").call("remove", &["wheat1", "x"]), "held by mill");
    refused(mock.role("mill", "a", "auditor").call("remove", &["wheat1", "x"]), "do not trade");
}

/// Aim: nothing is made beyond the declared yield, with another's recipe, or from other units.
#[test]
fn yields_bind() {
    let mock = farm();
    mock.call("declare", &["milling", "flour", "kg", "kg", "800"]).unwrap();
    refused(mock.call("declare", &["milling", "flour", "kg", "kg", "900"]), "cannot change");
    refused(mock.call("declare", &["magic", "gold", "kg", "kg", "0"]), "permille");
    refused(mock.call("transform", &["flour", "milling", "801", "wheat1"]), "declared yield");
    refused(mock.call("transform", &["flour", "other", "1", "wheat1"]), "there is no");
    mock.call("create", &["milk", "milk", "10", "litre", "cow"]).unwrap();
    refused(mock.call("transform", &["flour", "milling", "1", "milk"]), "measured in kg");
    mock.caller("mill", "max");
    mock.call("create", &["w", "wheat", "10", "kg", "field 8"]).unwrap();
    refused(mock.call("transform", &["flour", "milling", "1", "w"]), "belongs to farm");
    mock.caller("farm", "fay").call("transform", &["flour", "milling", "800", "wheat1"]).unwrap();
    assert_eq!(number(&mock.call("show", &["flour"]).unwrap(), "below-yield"), 0);
}
