use obelisk_contract::mock::Mock;

use super::*;
use crate::settlement::pro_rata;

/// 1000 units, 600 for north and 400 for south, open.
fn open() -> Mock {
    let mock = Mock::new("bond", FUNCTIONS);
    mock.on("2024-03-01").caller("treasury", "tom");
    let args = ["b1", "1000", "98", "EUR", "regulator", "2024-03-15"];
    mock.call("issue", &args).unwrap();
    mock.call("quota", &["b1", "north", "700"]).unwrap();
    mock.call("quota", &["b1", "north", "600"]).unwrap();
    mock.call("quota", &["b1", "south", "400"]).unwrap();
    mock.call("open", &["b1"]).unwrap();
    mock
}

fn allotted() -> Mock {
    let mock = open();
    mock.caller("north", "nia").call("subscribe", &["b1", "ann", "500"]).unwrap();
    mock.call("subscribe", &["b1", "bob", "400"]).unwrap();
    mock.caller("south", "sid").call("subscribe", &["b1", "cid", "100"]).unwrap();
    mock.caller("treasury", "tom").call("close", &["b1"]).unwrap();
    mock.call("allot", &["b1", "north"]).unwrap();
    mock.call("allot", &["b1", "south"]).unwrap();
    mock
}

fn number(text: &str, name: &str) -> u64 {
    Record::parse(text.as_bytes()).unwrap().number(name)
}

fn refused(result: Result<String, String>, text: &str) {
    let refusal = result.expect_err(text);
    assert!(refusal.contains(text), "{refusal}");
}

/// Aim: from issue to settlement, units move only with the cash.
#[test]
fn a_bond_is_sold_and_settled() {
    let mock = allotted();
    refused(mock.call("settle", &["b1", "north"]), "against payment");
    mock.caller("north", "nia").call("pay", &["b1", "north", "wire 7"]).unwrap();
    let ann = |mock: &Mock| mock.call("holding", &["b1", "north", "ann"]).unwrap();
    assert_eq!(number(&ann(&mock), "units"), 0);
    refused(mock.call("transfer", &["b1", "ann", "eve", "1"]), "not settled");
    mock.caller("treasury", "tom").call("settle", &["b1", "north"]).unwrap();
    refused(mock.call("settle", &["b1", "north"]), "no cash");
    assert_eq!(number(&ann(&mock), "units"), 334);
    assert_eq!(number(&mock.call("show", &["b1"]).unwrap(), "settled"), 600);
    mock.caller("north", "nia").call("transfer", &["b1", "ann", "eve", "34"]).unwrap();
    refused(mock.call("transfer", &["b1", "ann", "eve", "301"]), "fewer units");
    assert_eq!(number(&ann(&mock), "units"), 300);
    refused(mock.call("pay", &["b1", "north", "again"]), "already");
}

/// Aim: allotments keep the quota, never exceed an order, and are the same for the same orders.
#[test]
fn allotment_is_pro_rata() {
    assert_eq!(pro_rata(&[500, 400], 900, 600), [334, 266]);
    assert_eq!(pro_rata(&[1, 1, 1], 3, 2), [1, 1, 0]);
    assert_eq!(pro_rata(&[5, 5], 10, 0), [0, 0]);
    assert_eq!(pro_rata(&[5, 5], 10, 10), [5, 5]);
    assert_eq!(pro_rata(&[], 0, 7), []);
    for quota in 0..40 {
        let wanted = [1, 13, 2, 7, 7, 10];
        let given = pro_rata(&wanted, 40, quota);
        assert_eq!(given.iter().sum::<u64>(), quota);
        assert!(given.iter().zip(&wanted).all(|(given, wanted)| given <= wanted));
    }
}

/// Aim: quotas never exceed the bond, and each step has its time and its party.
#[test]
fn steps_have_their_time_and_party() {
    let mock = open();
    refused(mock.call("quota", &["b1", "east", "1"]), "is open");
    refused(mock.call("subscribe", &["b1", "ann", "5"]), "treasury has no quota");
    refused(mock.call("allot", &["b1", "north"]), "is open");
    refused(mock.caller("north", "nia").call("close", &["b1"]), "for the issuer, treasury");
    refused(mock.call("subscribe", &["b1", "ann", "0"]), "from 1");
    refused(mock.call("withdraw", &["b1", "ann"]), "no such order");
    refused(mock.role("north", "n", "auditor").call("subscribe", &["b1", "a", "1"]), "do not act");
    let mock = allotted();
    refused(mock.call("allot", &["b1", "north"]), "are allotted");
    refused(mock.call("cancel", &["b1"]), "cannot be cancelled");
    refused(mock.caller("south", "sid").call("pay", &["b1", "north", "x"]), "for north to do");
    refused(mock.call("subscribe", &["b1", "cid", "1"]), "is closed");
    let mock = Mock::new("bond", FUNCTIONS);
    mock.caller("treasury", "tom");
    let args = ["b1", "1000", "98", "EUR", "regulator", "2024-03-15"];
    for (at, value, text) in [
        (1, "0", "units"),
        (2, "18446744073709551615", "price"),
        (3, "eur", "ISO 4217"),
        (5, "2023-12-31", "passed"),
    ] {
        let mut bad = args;
        bad[at] = value;
        refused(mock.call("issue", &bad), text);
    }
    mock.call("issue", &args).unwrap();
    refused(mock.call("issue", &args), "exists");
    refused(mock.call("open", &["b1"]), "no bank");
    refused(mock.call("quota", &["b1", "north", "1001"]), "exceed");
    mock.call("quota", &["b1", "north", "1000"]).unwrap();
    refused(mock.call("quota", &["b1", "south", "1"]), "exceed");
    mock.call("cancel", &["b1"]).unwrap();
    refused(mock.call("open", &["b1"]), "cancelled");
}

/// Aim: orders replace each other and are taken back without leaving demand behind.
#[test]
fn demand_follows_the_orders() {
    let mock = open();
    mock.caller("north", "nia");
    for (function, args, demand) in [
        ("subscribe", vec!["b1", "ann", "50"], 50),
        ("subscribe", vec!["b1", "bob", "5"], 55),
        ("subscribe", vec!["b1", "ann", "20"], 25),
        ("withdraw", vec!["b1", "bob"], 20),
    ] {
        mock.call(function, &args).unwrap();
        let bank = mock.call("bank", &["b1", "north"]).unwrap();
        assert_eq!(number(&bank, "demand"), demand);
    }
    assert_eq!(number(&mock.call("bank", &["b1", "north"]).unwrap(), "orders"), 1);
}

/// Aim: banks see their own books only; issuer and supervisor see all, and who withholds money.
#[test]
fn the_supervisor_sees_who_is_late() {
    let mock = allotted();
    refused(mock.caller("south", "sid").call("bank", &["b1", "north"]), "supervisor");
    refused(mock.call("supervise", &["b1"]), "supervisor");
    refused(mock.call("holding", &["b1", "north", "ann"]), "supervisor");
    mock.call("pay", &["b1", "south", "wire 1"]).unwrap();
    mock.caller("treasury", "tom").call("settle", &["b1", "south"]).unwrap();
    mock.on("2024-03-16").role("regulator", "rae", "auditor");
    let seen = mock.call("supervise", &["b1"]).unwrap();
    assert!(seen.contains(r#""demand":1000"#), "{seen}");
    assert!(seen.contains(r#""bank":"north","overdue":true"#), "{seen}");
    assert!(seen.contains(r#""bank":"south","overdue":false"#), "{seen}");
}
