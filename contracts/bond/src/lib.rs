//! A bond and its sale by several banks, seen by issuer and supervisor as it happens.
//!
//! - `issue(bond, units, price, currency, supervisor, settle by)`, issuer: announces a bond of so
//!   many units at one price
//! - `quota(bond, bank, units)`, issuer: gives a bank its part, while the bond is announced
//! - `open(bond)`, issuer: opens the subscription
//! - `subscribe(bond, investor, units)`, bank: records an order; a second one replaces the first
//! - `withdraw(bond, investor)`, bank: takes an order back
//! - `close(bond)`, issuer: closes the subscription
//! - `allot(bond, bank)`, issuer: gives the bank's investors their units
//! - `pay(bond, bank, reference)`, bank: states that the cash for its allotment was sent
//! - `settle(bond, bank)`, issuer: states that the cash came: units move in the same transaction
//! - `transfer(bond, investor, to, units)`, bank: moves settled units between its investors
//! - `cancel(bond)`, issuer: ends a bond before it is allotted
//! - `show(bond)`, anyone: terms, status and sums
//! - `bank(bond, bank)`, issuer, supervisor, that bank: quota, demand, allotment, cash and units
//! - `supervise(bond)`, issuer, supervisor: all banks at once, and which are overdue
//! - `holding(bond, bank, investor)`, issuer, supervisor, that bank: order, allotment, units
//!
//! Issuer, supervisor and banks are organisations; investors are the bank's own names for its
//! customers. Actors are clients and admins; an auditor of the supervisor may read. Demand above
//! the quota is recorded, and allotted pro rata: each order gets `units x quota / demand`, rounded
//! down; what is left goes one unit each to the earliest names in order, so that the same orders
//! always give the same allotment. Delivery is against payment: `settle` marks the cash as received
//! and moves the units, both or neither. Dates are YYYY-MM-DD.
//!
//! State: `bond/NAME`, `bank/NAME/BANK`, `order/NAME/BANK/INVESTOR`, each flat JSON.

#![cfg_attr(target_arch = "wasm32", no_std)]

mod sale;
mod settlement;
mod view;

use obelisk_contract::prelude::*;

contract! {
    "issue" => sale::issue,
    "quota" => sale::quota,
    "open" => sale::open,
    "subscribe" => sale::subscribe,
    "withdraw" => sale::withdraw,
    "close" => sale::close,
    "allot" => settlement::allot,
    "pay" => settlement::pay,
    "settle" => settlement::settle,
    "transfer" => settlement::transfer,
    "cancel" => sale::cancel,
    "show" => view::show,
    "bank" => view::bank,
    "supervise" => view::supervise,
    "holding" => view::holding,
}

/// Banks of one bond.
const BANKS_MAX: usize = 64;
/// Orders of one bank.
const ORDERS_MAX: usize = 500;

/// A bond with its name.
struct Bond {
    name: String,
    terms: Record,
}

impl Bond {
    fn load(args: &Args) -> Result<Self, Refusal> {
        let name = args.name(0, "bond")?.to_owned();
        let terms = Record::require(&["bond/", &name].concat())?;
        Ok(Self { name, terms })
    }

    fn store(&self) {
        self.terms.store(&["bond/", &self.name].concat());
    }

    fn require_status(&self, status: &str) -> Result<(), Refusal> {
        let found = self.terms.text("status");
        require(found == status, ["the bond is ", found, ", not ", status].concat())
    }

    fn require_issuer(&self) -> Result<(), Refusal> {
        let issuer = self.terms.text("issuer");
        require(actor()? == issuer, ["this is for the issuer, ", issuer, ", to do"].concat())
    }

    /// Refuses readers other than issuer, supervisor and, where given, one bank.
    fn require_reader(&self, bank: &str) -> Result<(), Refusal> {
        let organisation = chain::caller().organisation;
        let known = [self.terms.text("issuer"), self.terms.text("supervisor"), bank];
        require(
            known.contains(&organisation.as_str()),
            "only issuer, supervisor and the bank see it",
        )
    }

    fn bank_key(&self, bank: &str) -> String {
        ["bank/", &self.name, "/", bank].concat()
    }

    fn bank(&self, bank: &str) -> Result<Record, Refusal> {
        match Record::load(&self.bank_key(bank)) {
            Some(record) => Ok(record),
            None => refuse([bank, " has no quota of this bond"].concat()),
        }
    }

    /// All banks with their names.
    fn banks(&self) -> Vec<(String, Record)> {
        records(&self.bank_key(""), BANKS_MAX)
    }

    fn order_key(&self, bank: &str, investor: &str) -> String {
        ["order/", &self.name, "/", bank, "/", investor].concat()
    }

    /// All orders of a bank with the investors' names, ascending.
    fn orders(&self, bank: &str) -> Vec<(String, Record)> {
        records(&self.order_key(bank, ""), ORDERS_MAX)
    }

    /// Tells who listens and answers.
    fn done(&self, event: &str, bank: &str) -> Answer {
        let json = Json::object().text("bond", &self.name).text("event", event);
        let json = if bank.is_empty() { json } else { json.text("bank", bank) };
        let text = json.finish();
        chain::emit(event, &text);
        Ok(text.into_bytes())
    }
}

fn records(prefix: &str, limit: usize) -> Vec<(String, Record)> {
    state::list(prefix, "", limit)
        .into_iter()
        .map(|(name, value)| {
            (name, Record::parse(&value).expect("records are written by this contract"))
        })
        .collect()
}

/// The caller's organisation, where the caller may act.
fn actor() -> Result<String, Refusal> {
    let caller = chain::caller();
    match matches!(caller.role.as_str(), "client" | "admin") {
        true => Ok(caller.organisation),
        false => refuse(["certificates of role ", &caller.role, " do not act"].concat()),
    }
}

#[cfg(test)]
mod tests;
