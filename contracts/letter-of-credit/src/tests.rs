use obelisk_contract::mock::Mock;

use super::*;

const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Machines for 10,000.00 EUR, ten percent more or less, shipped by 28 June, expiring on 15 July
/// 2024.
fn applied(partial: &str) -> Mock {
    let mock = Mock::new("letter-of-credit", FUNCTIONS);
    mock.on("2024-05-01").caller("buyer", "ann");
    let args = [
        "lc1",
        "1000000",
        "EUR",
        "10",
        "seller",
        "issuing",
        "advising",
        "carrier",
        "2024-06-28",
        "2024-07-15",
        partial,
        "invoice,insurance",
    ];
    mock.call("apply", &args).unwrap();
    mock
}

fn advised(partial: &str) -> Mock {
    let mock = applied(partial);
    mock.caller("issuing", "ivo").call("issue", &["lc1"]).unwrap();
    mock.caller("advising", "ada").call("advise", &["lc1"]).unwrap();
    mock
}

fn shipped(partial: &str) -> Mock {
    let mock = advised(partial);
    mock.on("2024-06-20").caller("carrier", "cas");
    mock.call("ship", &["lc1", "bl1", "4 machines", "2024-06-19"]).unwrap();
    mock
}

fn documents() -> String {
    format!("invoice={DIGEST},insurance={DIGEST}")
}

fn present(mock: &Mock, bill: &str, amount: &str) -> Result<String, String> {
    mock.caller("seller", "sam").call("present", &["lc1", bill, amount, &documents()])
}

fn presented(partial: &str) -> Mock {
    let mock = shipped(partial);
    present(&mock, "bl1", "1000000").unwrap();
    mock
}

fn status(mock: &Mock) -> String {
    let shown = mock.call("show", &["lc1"]).unwrap();
    Record::parse(shown.as_bytes()).unwrap().text("status").to_owned()
}

fn field(mock: &Mock, function: &str, at: &str, name: &str) -> String {
    let shown = mock.call(function, &["lc1", at]).unwrap();
    Record::parse(shown.as_bytes()).unwrap().text(name).to_owned()
}

fn refused(result: Result<String, String>, text: &str) {
    let refusal = result.expect_err(text);
    assert!(refusal.contains(text), "{refusal}");
}

/// Aim: a credit lives from application to payment, and title to the goods follows.
#[test]
fn a_credit_is_paid() {
    let mock = presented("no");
    assert_eq!(field(&mock, "bill", "bl1", "holder"), "issuing");
    mock.caller("issuing", "ivo").call("accept", &["lc1", "1"]).unwrap();
    mock.call("pay", &["lc1", "1"]).unwrap();
    assert_eq!(status(&mock), "settled");
    assert_eq!(field(&mock, "bill", "bl1", "holder"), "buyer");
    assert_eq!(field(&mock, "presentation", "1", "status"), "paid");
    assert_eq!(
        mock.events(),
        ["applied", "issued", "advised", "shipped", "presented", "accepted", "paid"]
    );
    assert_eq!(mock.call("list", &[]).unwrap(), r#"[{"id":"lc1","status":"settled"}]"#);
}

/// Aim: each step is refused to every party but its own, and to roles that do not trade.
#[test]
fn steps_belong_to_their_party() {
    type Step = (fn() -> Mock, &'static str, &'static [&'static str], &'static [&'static str]);
    let steps: [Step; 6] = [
        (|| applied("no"), "issue", &["lc1"], &["issuing"]),
        (|| applied("no"), "decline", &["lc1"], &["issuing"]),
        (|| advised("no"), "ship", &["lc1", "b", "goods", "2024-05-01"], &["carrier"]),
        (|| advised("no"), "amend", &["lc1", "amount", "5"], &["buyer"]),
        (|| presented("no"), "accept", &["lc1", "1"], &["issuing"]),
        (|| presented("no"), "refuse", &["lc1", "1", "stained"], &["issuing"]),
    ];
    for (start, step, args, allowed) in steps {
        for party in ["buyer", "seller", "issuing", "advising", "carrier", "stranger"] {
            let mock = start();
            let result = mock.caller(party, "x").call(step, args);
            assert_eq!(result.is_ok(), allowed.contains(&party), "{step} by {party}");
        }
        let mock = start();
        refused(mock.role(allowed[0], "x", "auditor").call(step, args), "do not trade");
    }
}

/// Aim: a certificate bound to one party by its attribute acts for no other.
#[test]
fn attributes_bind_a_person_to_a_party() {
    let mock = applied("no");
    mock.caller("issuing", "ivo").attribute("trade", "advising-bank");
    refused(mock.call("issue", &["lc1"]), "issuing-bank");
    mock.caller("issuing", "ivo").attribute("trade", "issuing-bank");
    mock.call("issue", &["lc1"]).unwrap();
}

/// Aim: steps out of order are refused.
#[test]
fn order_is_kept() {
    let mock = applied("no");
    refused(mock.caller("advising", "a").call("advise", &["lc1"]), "credit is applied");
    refused(
        mock.caller("carrier", "c").call("ship", &["lc1", "b", "g", "2024-05-01"]),
        "credit is applied",
    );
    let mock = presented("no");
    refused(mock.caller("issuing", "i").call("pay", &["lc1", "1"]), "not accepted");
    refused(mock.call("pay", &["lc1", "2"]), "there is no");
    mock.call("accept", &["lc1", "1"]).unwrap();
    refused(mock.call("refuse", &["lc1", "1", "late"]), "is accepted");
    mock.call("pay", &["lc1", "1"]).unwrap();
    refused(mock.call("pay", &["lc1", "1"]), "is paid");
}

/// Aim: documents after expiry are refused; an expiry on a Sunday extends to Monday.
#[test]
fn expiry_is_kept() {
    let mock = shipped("no");
    mock.on("2024-07-05").caller("buyer", "ann");
    mock.call("amend", &["lc1", "expiry", "2024-07-07"]).unwrap();
    mock.caller("issuing", "i").call("consent", &["lc1"]).unwrap();
    mock.caller("seller", "s").call("consent", &["lc1"]).unwrap();
    mock.on("2024-07-08");
    refused(mock.caller("buyer", "b").call("expire", &["lc1"]), "has not expired");
    present(&mock, "bl1", "1000000").unwrap();
    mock.on("2024-07-09");
    refused(mock.caller("buyer", "b").call("expire", &["lc1"]), "still wait");
    mock.caller("issuing", "i").call("refuse", &["lc1", "1", "stained"]).unwrap();
    refused(present(&mock, "bl1", "1000000"), "expired");
    mock.caller("buyer", "b").call("expire", &["lc1"]).unwrap();
    assert_eq!(status(&mock), "expired");
}

/// Aim: documents older than 21 days, and late shipments, are refused.
#[test]
fn stale_documents_and_late_shipments_are_refused() {
    let mock = shipped("no");
    mock.on("2024-07-11");
    refused(present(&mock, "bl1", "1000000"), "21 days");
    mock.on("2024-07-10");
    present(&mock, "bl1", "1000000").unwrap();
    let mock = advised("no");
    mock.on("2024-06-29").caller("carrier", "cas");
    mock.call("ship", &["lc1", "bl2", "4 machines", "2024-06-29"]).unwrap();
    refused(mock.call("ship", &["lc1", "bl3", "x", "2024-06-30"]), "not yet on board");
    refused(present(&mock, "bl2", "1000000"), "late shipment");
}

/// Aim: amounts obey the credit, its tolerance and its rule on parts.
#[test]
fn amounts_obey_the_credit() {
    let mock = shipped("no");
    refused(present(&mock, "bl1", "1100001"), "from 1 to 1100000");
    refused(present(&mock, "bl1", "0"), "from 1");
    refused(present(&mock, "bl1", "899999"), "in parts");
    present(&mock, "bl1", "1100000").unwrap();
    let mock = shipped("yes");
    mock.caller("carrier", "cas");
    mock.call("ship", &["lc1", "bl2", "2 machines", "2024-06-20"]).unwrap();
    present(&mock, "bl1", "600000").unwrap();
    refused(present(&mock, "bl1", "100000"), "presented already");
    refused(present(&mock, "bl2", "500001"), "from 1 to 500000");
    present(&mock, "bl2", "500000").unwrap();
    mock.caller("issuing", "ivo").call("accept", &["lc1", "1"]).unwrap();
    mock.call("pay", &["lc1", "1"]).unwrap();
    assert_eq!(status(&mock), "advised");
    mock.call("accept", &["lc1", "2"]).unwrap();
    mock.call("pay", &["lc1", "2"]).unwrap();
    assert_eq!(status(&mock), "settled");
}

/// Aim: missing, doubled and malformed documents are named.
#[test]
fn documents_must_be_complete() {
    let mock = shipped("no");
    mock.caller("seller", "sam");
    let call = |documents: &str| mock.call("present", &["lc1", "bl1", "1000000", documents]);
    refused(call(""), "missing documents: invoice, insurance");
    refused(call(&format!("invoice={DIGEST}")), "missing documents: insurance");
    refused(call("invoice=12,insurance=34"), "64 hex digits");
    refused(call(&format!("invoice={DIGEST},invoice={DIGEST}")), "twice");
    refused(call("invoice"), "name=digest");
    refused(
        mock.call("present", &["lc1", "other", "1000000", &documents()]),
        "no such bill of lading",
    );
    call(&format!("{},photo={DIGEST}", documents())).unwrap();
}

/// Aim: an amendment needs the issuing bank and the beneficiary, and cannot be forced or stale.
#[test]
fn amendments_need_consent() {
    let mock = advised("no");
    mock.caller("buyer", "ann").call("amend", &["lc1", "amount", "500000"]).unwrap();
    refused(mock.call("amend", &["lc1", "amount", "1"]), "amendment is open");
    refused(mock.call("consent", &["lc1"]), "issuing-bank");
    mock.caller("issuing", "ivo").call("consent", &["lc1"]).unwrap();
    refused(mock.call("consent", &["lc1"]), "already");
    let amount = |mock: &Mock| {
        Record::parse(mock.call("show", &["lc1"]).unwrap().as_bytes()).unwrap().number("amount")
    };
    assert_eq!(amount(&mock), 1_000_000);
    mock.caller("seller", "sam").call("reject", &["lc1"]).unwrap();
    refused(mock.call("consent", &["lc1"]), "there is no");
    mock.caller("buyer", "ann").call("amend", &["lc1", "amount", "2000000"]).unwrap();
    mock.caller("seller", "sam").call("consent", &["lc1"]).unwrap();
    mock.caller("issuing", "ivo").call("consent", &["lc1"]).unwrap();
    assert_eq!(amount(&mock), 2_000_000);
    mock.caller("buyer", "ann");
    for (name, value, text) in [
        ("amount", "0", "more than 0"),
        ("tolerance", "11", "at most 10"),
        ("expiry", "2024-02-30", "YYYY-MM-DD"),
        ("documents", "a,a", "different names"),
        ("beneficiary", "crook", "amendable"),
    ] {
        refused(mock.call("amend", &["lc1", name, value]), text);
    }
}

/// Aim: a bank refuses within five banking days or not at all.
#[test]
fn silence_precludes_refusal() {
    // Presented on Thursday 20 June: the fifth banking day is Thursday 27 June.
    let mock = presented("no");
    mock.on("2024-06-27");
    refused(mock.caller("seller", "s").call("preclude", &["lc1", "1"]), "still has time");
    mock.on("2024-06-28");
    refused(mock.caller("issuing", "i").call("refuse", &["lc1", "1", "late"]), "five banking");
    mock.caller("seller", "s").call("preclude", &["lc1", "1"]).unwrap();
    mock.caller("issuing", "i").call("pay", &["lc1", "1"]).unwrap();
    let mock = presented("no");
    mock.on("2024-06-27").caller("issuing", "i").call("refuse", &["lc1", "1", "x"]).unwrap();
}

/// Aim: after a refusal the documents go back, may be presented again, or the applicant waives.
#[test]
fn refused_documents_go_back() {
    let mock = presented("no");
    mock.caller("issuing", "ivo").call("refuse", &["lc1", "1", "invoice unsigned"]).unwrap();
    assert_eq!(field(&mock, "bill", "bl1", "holder"), "seller");
    assert_eq!(field(&mock, "presentation", "1", "discrepancies"), "invoice unsigned");
    refused(mock.call("accept", &["lc1", "1"]), "is refused");
    present(&mock, "bl1", "1000000").unwrap();
    refused(mock.caller("buyer", "ann").call("waive", &["lc1", "1"]), "from 1 to 100000");
    mock.caller("issuing", "ivo").call("refuse", &["lc1", "2", "again"]).unwrap();
    mock.caller("buyer", "ann").call("waive", &["lc1", "1"]).unwrap();
    mock.caller("issuing", "ivo").call("accept", &["lc1", "1"]).unwrap();
    mock.call("pay", &["lc1", "1"]).unwrap();
    assert_eq!(status(&mock), "settled");
}

/// Aim: applications that contradict themselves are refused.
#[test]
fn senseless_applications_are_refused() {
    let mock = Mock::new("letter-of-credit", FUNCTIONS);
    mock.on("2024-05-01").caller("buyer", "ann");
    let good = [
        "lc1",
        "1000000",
        "EUR",
        "10",
        "seller",
        "issuing",
        "advising",
        "carrier",
        "2024-06-28",
        "2024-07-15",
        "no",
        "invoice",
    ];
    for (at, value, text) in [
        (0, "a/b", "id"),
        (1, "99999999999999999999", "whole number"),
        (1, "18446744073709551615", "too large"),
        (2, "euro", "ISO 4217"),
        (3, "11", "10 percent"),
        (4, "buyer", "two organisations"),
        (5, "seller", "two organisations"),
        (8, "2024-07-16", "after expiry"),
        (9, "2024-04-30", "after expiry"),
        (10, "maybe", "yes or no"),
        (11, "In voice", "documents"),
    ] {
        let mut args = good;
        args[at] = value;
        refused(mock.call("apply", &args), text);
    }
    refused(mock.call("apply", &good[..11]), "got 11");
    mock.call("apply", &good).unwrap();
    refused(mock.call("apply", &good), "exists");
    mock.on("2024-08-01").caller("issuing", "ivo");
    refused(mock.call("issue", &["lc1"]), "passed");
}
