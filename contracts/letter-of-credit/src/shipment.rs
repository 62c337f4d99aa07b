//! Bills of lading: the carrier's receipt, and title to the goods.

use obelisk_contract::prelude::*;

use crate::Credit;

/// Where a bill is stored.
pub fn key(id: &str, bill: &str) -> String {
    ["bill/", id, "/", bill].concat()
}

/// The carrier states what it took on board and when; whether that was in time is for `present`.
pub fn ship(args: &Args) -> Answer {
    args.count(4, "ship(id, bill, goods, shipped on)")?;
    let credit = Credit::load(args)?;
    credit.require_party(&["carrier"])?;
    credit.require_status(&["advised"])?;
    let bill = args.name(1, "bill")?;
    let key = key(&credit.id, bill);
    require(state::get(&key).is_none(), "a bill of this number exists")?;
    let shipped = args.date(3, "shipped on")?;
    require(shipped <= chain::today(), "shipped on: goods not yet on board have no bill")?;
    let mut record = Record::new();
    record
        .set_text("goods", args.text(2, "goods")?)
        .set_text("shipped", &shipped.text())
        .set_text("carrier", &chain::caller().full_name())
        .set_text("holder", credit.terms.text("beneficiary"))
        .set_number("presentation", 0);
    record.store(&key);
    credit.tell("shipped", &[("bill", bill), ("shipped", &shipped.text())])
}

/// Hands the bill to another holder.
pub fn endorse(id: &str, bill: &str, holder: &str, presentation: u64) {
    let key = key(id, bill);
    let mut record = Record::load(&key).expect("a presented bill exists");
    record.set_text("holder", holder).set_number("presentation", presentation);
    record.store(&key);
}
