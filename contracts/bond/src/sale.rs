//! Announcement, quotas, subscription.

use obelisk_contract::prelude::*;

use crate::BANKS_MAX;
use crate::Bond;
use crate::ORDERS_MAX;
use crate::actor;

/// Units of one bond: their products with each other and with the price fit 128 bits.
const UNITS_MAX: u64 = 1_000_000_000_000;

pub fn issue(args: &Args) -> Answer {
    args.count(6, "issue(bond, units, price, currency, supervisor, settle by)")?;
    let name = args.name(0, "bond")?;
    let key = ["bond/", name].concat();
    require(state::get(&key).is_none(), "a bond of this name exists")?;
    let (units, price) = (args.number(1, "units")?, args.number(2, "price")?);
    require((1..=UNITS_MAX).contains(&units), "units: from 1 to 10^12")?;
    let worth = price.checked_mul(units);
    require(price > 0 && worth.is_some(), "price: more than 0, and the whole must fit a number")?;
    let currency = args.text(3, "currency")?;
    let known = currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase());
    require(known, "currency: expected three capital letters (ISO 4217)")?;
    let settle_by = args.date(5, "settle by")?;
    require(settle_by >= chain::today(), "settle by: the day has passed")?;
    let mut terms = Record::new();
    terms
        .set_text("status", "announced")
        .set_text("issuer", &actor()?)
        .set_text("supervisor", args.name(4, "supervisor")?)
        .set_number("units", units)
        .set_number("price", price)
        .set_text("currency", currency)
        .set_text("settle-by", &settle_by.text())
        .set_number("quotas", 0)
        .set_number("allotted", 0)
        .set_number("settled", 0);
    let bond = Bond { name: name.to_owned(), terms };
    bond.store();
    bond.done("issued", "")
}

pub fn quota(args: &Args) -> Answer {
    args.count(3, "quota(bond, bank, units)")?;
    let mut bond = Bond::load(args)?;
    bond.require_issuer()?;
    bond.require_status("announced")?;
    let bank = args.name(1, "bank")?;
    let units = args.number(2, "units")?;
    let key = bond.bank_key(bank);
    let mut record = Record::load(&key).unwrap_or_default();
    let is_new = !record.has("quota");
    require(!is_new || bond.banks().len() < BANKS_MAX, "a bond is sold by at most 64 banks")?;
    let others = bond.terms.number("quotas") - record.number("quota");
    let quotas = others.checked_add(units).filter(|sum| *sum <= bond.terms.number("units"));
    let Some(quotas) = quotas else { return refuse("the quotas exceed the bond's units") };
    bond.terms.set_number("quotas", quotas);
    bond.store();
    if is_new {
        for name in ["demand", "orders", "allotted", "settled"] {
            record.set_number(name, 0);
        }
        record.set_text("cash", "none");
    }
    record.set_number("quota", units).store(&key);
    bond.done("quota", bank)
}

pub fn open(args: &Args) -> Answer {
    args.count(1, "open(bond)")?;
    let bond = Bond::load(args)?;
    require(bond.terms.number("quotas") > 0, "no bank has a quota yet")?;
    become_status(bond, "announced", "open")
}

pub fn close(args: &Args) -> Answer {
    args.count(1, "close(bond)")?;
    become_status(Bond::load(args)?, "open", "closed")
}

pub fn cancel(args: &Args) -> Answer {
    args.count(1, "cancel(bond)")?;
    let bond = Bond::load(args)?;
    let status = bond.terms.text("status").to_owned();
    let early = matches!(status.as_str(), "announced" | "open" | "closed");
    let untouched = bond.banks().iter().all(|(_, bank)| !bank.flag("allotment-done"));
    require(early && untouched, "an allotted bond cannot be cancelled")?;
    become_status(bond, &status, "cancelled")
}

pub fn subscribe(args: &Args) -> Answer {
    args.count(3, "subscribe(bond, investor, units)")?;
    let units = args.number(2, "units")?;
    require((1..=UNITS_MAX).contains(&units), "units: from 1 to 10^12")?;
    order(args, units)
}

pub fn withdraw(args: &Args) -> Answer {
    args.count(2, "withdraw(bond, investor)")?;
    order(args, 0)
}

/// Sets the units of an order; 0 takes it back.
fn order(args: &Args, units: u64) -> Answer {
    let bond = Bond::load(args)?;
    bond.require_status("open")?;
    let bank = actor()?;
    let mut record = bond.bank(&bank)?;
    let investor = args.name(1, "investor")?;
    let key = bond.order_key(&bank, investor);
    let old = Record::load(&key);
    let before = old.as_ref().map_or(0, |order| order.number("ordered"));
    require(units > 0 || old.is_some(), "there is no such order")?;
    let mut orders = record.number("orders");
    match (&old, units) {
        (None, _) => orders += 1,
        (Some(_), 0) => orders -= 1,
        (Some(_), _) => {}
    }
    require(orders <= ORDERS_MAX as u64, "a bank records at most 500 orders of one bond")?;
    record.set_number("orders", orders);
    // At most 500 orders of 10^12 units.
    record.set_number("demand", record.number("demand") - before + units);
    record.store(&bond.bank_key(&bank));
    if units == 0 {
        state::delete(&key);
        return bond.done("withdrawn", &bank);
    }
    let mut order = Record::new();
    order.set_number("ordered", units).set_number("allotted", 0).set_number("units", 0);
    order.store(&key);
    bond.done("subscribed", &bank)
}

fn become_status(mut bond: Bond, from: &str, to: &str) -> Answer {
    bond.require_issuer()?;
    bond.require_status(from)?;
    bond.terms.set_text("status", to);
    bond.store();
    bond.done(to, "")
}
