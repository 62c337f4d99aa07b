//! Provenance of goods: lots that change hands, are split, merged and made into other goods, so
//! that nothing appears from nowhere and nothing vanishes.
//!
//! - `create(lot, product, quantity, unit, origin)`, any trader: enters raw goods into the book
//! - `declare(recipe, product, unit, input unit, permille)`, any trader: declares its own process:
//!   at most `permille` units of product from 1000 units of input
//! - `send(lot, to)`, holder: offers a lot to another organisation
//! - `receive(lot)`, addressee: takes it: custody changes here, not before
//! - `return(lot)`, holder, addressee: ends the offer
//! - `split(lot, new lot, quantity, new lot, quantity, ...)`, holder: divides a lot; the parts are
//!   the whole
//! - `merge(new lot, lot, lot, ...)`, holder: unites lots of one product and unit
//! - `transform(new lot, recipe, quantity, lot, lot, ...)`, holder: makes other goods within the
//!   declared yield
//! - `remove(lot, reason)`, holder: takes a lot out of the book: sold to a consumer, spoilt
//! - `show(lot)`, anyone: one lot as JSON
//! - `trace(lot)`, anyone: the lot and all it came from
//! - `book(product, unit)`, anyone: created, made, used, removed and present quantities
//!
//! A trader is a client or admin of any organisation; the holder of a lot is an organisation. A
//! lot's name is used once and for ever. Quantities are whole numbers of the unit. The recipe
//! belongs to the organisation that declared it and only it may use it; a declaration cannot be
//! changed, so a yield claimed once stays on record. Input beyond the output is loss, and is
//! recorded.
//!
//! State: `lot/NAME`, `recipe/NAME`, `book/PRODUCT/UNIT`, each flat JSON. For each product and unit
//! `created + made = used + removed + present` holds after every transaction.

#![cfg_attr(target_arch = "wasm32", no_std)]

mod book;
mod process;
mod trace;

use obelisk_contract::prelude::*;

contract! {
    "create" => create,
    "declare" => process::declare,
    "send" => send,
    "receive" => receive,
    "return" => give_back,
    "split" => process::split,
    "merge" => process::merge,
    "transform" => process::transform,
    "remove" => remove,
    "show" => show,
    "trace" => trace::trace,
    "book" => book::show,
}

/// A lot with its name.
struct Lot {
    name: String,
    record: Record,
}

impl Lot {
    /// The lot of that name.
    fn load(name: &str) -> Result<Self, Refusal> {
        let record = Record::require(&["lot/", name].concat())?;
        Ok(Self { name: name.to_owned(), record })
    }

    /// A lot that the caller holds, open, and not offered to anyone.
    fn held(name: &str) -> Result<Self, Refusal> {
        let lot = Self::load(name)?;
        lot.require_open()?;
        let holder = lot.record.text("holder");
        if holder != trader()? {
            return refuse(["the lot ", name, " is held by ", holder].concat());
        }
        let offered = lot.record.text("offered");
        require(offered.is_empty(), ["the lot ", name, " is offered to ", offered].concat())?;
        Ok(lot)
    }

    /// A new lot that the caller holds.
    fn new(
        name: &str,
        product: &str,
        quantity: u64,
        unit: &str,
        made_by: &str,
        sources: &[&str],
    ) -> Result<Self, Refusal> {
        require(
            state::get(["lot/", name].concat()).is_none(),
            ["a lot ", name, " exists; names are used once"].concat(),
        )?;
        require(quantity > 0, "quantity: more than 0")?;
        let mut record = Record::new();
        record
            .set_text("product", product)
            .set_number("quantity", quantity)
            .set_text("unit", unit)
            .set_text("holder", &trader()?)
            .set_text("status", "open")
            .set_text("by", made_by)
            .set_text("sources", &sources.join(","))
            .set_text("since", &chain::today().text());
        let lot = Self { name: name.to_owned(), record };
        lot.store();
        Ok(lot)
    }

    fn store(&self) {
        self.record.store(&["lot/", &self.name].concat());
    }

    fn require_open(&self) -> Result<(), Refusal> {
        let status = self.record.text("status");
        require(status == "open", ["the lot ", &self.name, " is ", status].concat())
    }

    /// Closes the lot: its goods are now in `into`.
    fn close(&mut self, status: &str, into: &str) {
        self.record.set_text("status", status).set_text("into", into);
        self.store();
    }

    fn quantity(&self) -> u64 {
        self.record.number("quantity")
    }

    fn product(&self) -> &str {
        self.record.text("product")
    }

    fn unit(&self) -> &str {
        self.record.text("unit")
    }
}

/// The caller's organisation, where the caller may trade.
fn trader() -> Result<String, Refusal> {
    let caller = chain::caller();
    match matches!(caller.role.as_str(), "client" | "admin") {
        true => Ok(caller.organisation),
        false => refuse(["certificates of role ", &caller.role, " do not trade"].concat()),
    }
}

/// Tells who listens and answers.
fn done(event: &str, lot: &str) -> Answer {
    let json = Json::object().text("event", event).text("lot", lot).finish();
    chain::emit(event, &json);
    Ok(json.into_bytes())
}

fn create(args: &Args) -> Answer {
    args.count(5, "create(lot, product, quantity, unit, origin)")?;
    let (name, product) = (args.name(0, "lot")?, args.name(1, "product")?);
    let (quantity, unit) = (args.number(2, "quantity")?, args.name(3, "unit")?);
    let mut lot = Lot::new(name, product, quantity, unit, "create", &[])?;
    lot.record.set_text("origin", args.text(4, "origin")?);
    lot.record.set_text("created-by", &chain::caller().full_name());
    lot.store();
    book::add(product, unit, "created", quantity)?;
    done("created", name)
}

fn send(args: &Args) -> Answer {
    args.count(2, "send(lot, to)")?;
    let mut lot = Lot::held(args.name(0, "lot")?)?;
    let to = args.name(1, "to")?;
    require(to != lot.record.text("holder"), "to: the holder has the lot already")?;
    lot.record.set_text("offered", to);
    lot.store();
    done("sent", &lot.name)
}

fn receive(args: &Args) -> Answer {
    args.count(1, "receive(lot)")?;
    let mut lot = Lot::load(args.name(0, "lot")?)?;
    lot.require_open()?;
    let offered = lot.record.text("offered").to_owned();
    if offered.is_empty() || offered != trader()? {
        return refuse(["the lot ", &lot.name, " is not offered to the caller"].concat());
    }
    // Earlier holders stay on the lot: custody is part of its history.
    let before = [lot.record.text("custody"), lot.record.text("holder")];
    let custody = before.join(if before[0].is_empty() { "" } else { "," });
    lot.record
        .set_text("custody", &custody)
        .set_text("holder", &offered)
        .set_text("since", &chain::today().text())
        .remove("offered");
    lot.store();
    done("received", &lot.name)
}

fn give_back(args: &Args) -> Answer {
    args.count(1, "return(lot)")?;
    let mut lot = Lot::load(args.name(0, "lot")?)?;
    lot.require_open()?;
    let trader = trader()?;
    let offered = lot.record.text("offered");
    require(!offered.is_empty(), ["the lot ", &lot.name, " is not offered"].concat())?;
    require(
        trader == offered || trader == lot.record.text("holder"),
        "only the holder and the addressee end an offer",
    )?;
    lot.record.remove("offered");
    lot.store();
    done("returned", &lot.name)
}

fn remove(args: &Args) -> Answer {
    args.count(2, "remove(lot, reason)")?;
    let mut lot = Lot::held(args.name(0, "lot")?)?;
    lot.record.set_text("reason", args.text(1, "reason")?);
    book::add(lot.product(), lot.unit(), "removed", lot.quantity())?;
    lot.close("removed", "");
    done("removed", &lot.name)
}

fn show(args: &Args) -> Answer {
    args.count(1, "show(lot)")?;
    let lot = Lot::load(args.name(0, "lot")?)?;
    lot.record.json().text("lot", &lot.name).answer()
}

#[cfg(test)]
mod tests;
