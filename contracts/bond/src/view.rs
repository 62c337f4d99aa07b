//! What each party may see.

use obelisk_contract::prelude::*;

use crate::Bond;

pub fn show(args: &Args) -> Answer {
    args.count(1, "show(bond)")?;
    let bond = Bond::load(args)?;
    bond.terms.json().text("bond", &bond.name).answer()
}

pub fn bank(args: &Args) -> Answer {
    args.count(2, "bank(bond, bank)")?;
    let bond = Bond::load(args)?;
    let bank = args.name(1, "bank")?;
    bond.require_reader(bank)?;
    bond.bank(bank)?.json().text("bank", bank).flag("overdue", overdue(&bond, bank)?).answer()
}

pub fn supervise(args: &Args) -> Answer {
    args.count(1, "supervise(bond)")?;
    let bond = Bond::load(args)?;
    bond.require_reader("")?;
    let mut banks = Json::list();
    let mut demand = 0_u64;
    for (name, record) in bond.banks() {
        demand = demand.saturating_add(record.number("demand"));
        banks.push(record.json().text("bank", &name).flag("overdue", overdue(&bond, &name)?));
    }
    bond.terms
        .json()
        .text("bond", &bond.name)
        .number("demand", demand)
        .json("banks", banks)
        .answer()
}

pub fn holding(args: &Args) -> Answer {
    args.count(3, "holding(bond, bank, investor)")?;
    let bond = Bond::load(args)?;
    let (bank, investor) = (args.name(1, "bank")?, args.name(2, "investor")?);
    bond.require_reader(bank)?;
    Record::require(&bond.order_key(bank, investor))?.json().text("investor", investor).answer()
}

/// True where the settlement day has passed and the bank's cash is not settled: money withheld
/// shows.
fn overdue(bond: &Bond, bank: &str) -> Result<bool, Refusal> {
    let record = bond.bank(bank)?;
    let late = chain::today().text().as_str() > bond.terms.text("settle-by");
    Ok(late && record.flag("allotment-done") && record.text("cash") != "settled")
}
