//! Allotment pro rata, and delivery against payment.

use obelisk_contract::prelude::*;

use crate::Bond;
use crate::actor;

pub fn allot(args: &Args) -> Answer {
    args.count(2, "allot(bond, bank)")?;
    let mut bond = Bond::load(args)?;
    bond.require_issuer()?;
    bond.require_status("closed")?;
    let bank = args.name(1, "bank")?;
    let mut record = bond.bank(bank)?;
    require(!record.flag("allotment-done"), "this bank's orders are allotted")?;
    let (quota, demand) = (record.number("quota"), record.number("demand"));
    let mut orders = bond.orders(bank);
    let wanted: Vec<u64> = orders.iter().map(|(_, order)| order.number("ordered")).collect();
    let given = pro_rata(&wanted, demand, quota);
    for ((investor, order), units) in orders.iter_mut().zip(&given) {
        order.set_number("allotted", *units).store(&bond.order_key(bank, investor));
    }
    let allotted = quota.min(demand);
    record.set_number("allotted", allotted).set_flag("allotment-done", true);
    if allotted == 0 {
        record.set_text("cash", "settled");
    }
    record.store(&bond.bank_key(bank));
    bond.terms.set_number("allotted", bond.terms.number("allotted") + allotted);
    bond.store();
    bond.done("allotted", bank)
}

pub fn pay(args: &Args) -> Answer {
    args.count(3, "pay(bond, bank, reference)")?;
    let bond = Bond::load(args)?;
    let bank = args.name(1, "bank")?;
    require(actor()? == bank, ["this is for ", bank, " to do"].concat())?;
    let mut record = bond.bank(bank)?;
    require(record.flag("allotment-done"), "nothing is allotted to this bank yet")?;
    require(record.text("cash") == "none", "the cash was sent already")?;
    record
        .set_text("cash", "sent")
        .set_text("reference", args.text(2, "reference")?)
        .set_text("sent-on", &chain::today().text());
    record.store(&bond.bank_key(bank));
    bond.done("paid", bank)
}

pub fn settle(args: &Args) -> Answer {
    args.count(2, "settle(bond, bank)")?;
    let mut bond = Bond::load(args)?;
    bond.require_issuer()?;
    let bank = args.name(1, "bank")?;
    let mut record = bond.bank(bank)?;
    require(record.text("cash") == "sent", "delivery is against payment: no cash was sent")?;
    for (investor, mut order) in bond.orders(bank) {
        let units = order.number("allotted");
        order.set_number("units", units).store(&bond.order_key(bank, &investor));
    }
    let allotted = record.number("allotted");
    record.set_text("cash", "settled").set_number("settled", allotted);
    record.store(&bond.bank_key(bank));
    bond.terms.set_number("settled", bond.terms.number("settled") + allotted);
    bond.store();
    bond.done("settled", bank)
}

pub fn transfer(args: &Args) -> Answer {
    args.count(4, "transfer(bond, investor, to, units)")?;
    let bond = Bond::load(args)?;
    let bank = actor()?;
    require(bond.bank(&bank)?.text("cash") == "settled", "the bank's units are not settled")?;
    let (from, to) = (args.name(1, "investor")?, args.name(2, "to")?);
    require(from != to, "investor and to are the same")?;
    let units = args.number(3, "units")?;
    let from_key = bond.order_key(&bank, from);
    let mut giver = Record::require(&from_key)?;
    let Some(rest) = giver.number("units").checked_sub(units) else {
        return refuse("the investor has fewer units");
    };
    giver.set_number("units", rest).store(&from_key);
    let to_key = bond.order_key(&bank, to);
    let mut taker = Record::load(&to_key).unwrap_or_default();
    taker.set_number("units", taker.number("units") + units).store(&to_key);
    bond.done("transferred", &bank)
}

/// Shares of `quota` in proportion to what is wanted; whole where `quota` suffices.
pub fn pro_rata(wanted: &[u64], demand: u64, quota: u64) -> Vec<u64> {
    if demand <= quota {
        return wanted.to_vec();
    }
    let share = |units: &u64| (u128::from(*units) * u128::from(quota) / u128::from(demand)) as u64;
    let mut given: Vec<u64> = wanted.iter().map(share).collect();
    // Rounding down leaves less than one unit for each order.
    let mut left = quota - given.iter().sum::<u64>();
    for (units, wanted) in given.iter_mut().zip(wanted) {
        if left > 0 && *units < *wanted {
            *units += 1;
            left -= 1;
        }
    }
    given
}
