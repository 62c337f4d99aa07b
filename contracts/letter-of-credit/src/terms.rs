//! From application to advice, and amendments.

use obelisk_contract::prelude::*;

use crate::Credit;

/// Largest tolerance, percent [30a].
const TOLERANCE_MAX: u64 = 10;
/// The document that every credit needs: title to the goods.
pub const BILL_OF_LADING: &str = "bill-of-lading";
/// Documents of one credit.
const DOCUMENTS_MAX: usize = 16;

pub fn apply(args: &Args) -> Answer {
    args.count(
        12,
        "apply(id, amount, currency, tolerance, beneficiary, issuing bank, advising bank, carrier, \
         latest shipment, expiry, partial, documents)",
    )?;
    let id = args.name(0, "id")?;
    let key = ["credit/", id].concat();
    require(state::get(&key).is_none(), "a credit of this id exists")?;
    let caller = chain::caller();
    let mut terms = Record::new();
    terms.set_text("status", "applied").set_text("applicant", &caller.organisation);
    for (at, party) in
        [(4, "beneficiary"), (5, "issuing-bank"), (6, "advising-bank"), (7, "carrier")]
    {
        terms.set_text(party, args.name(at, party)?);
    }
    for (one, other) in [
        ("applicant", "beneficiary"),
        ("applicant", "issuing-bank"),
        ("beneficiary", "issuing-bank"),
        ("beneficiary", "carrier"),
    ] {
        let apart = terms.text(one) != terms.text(other);
        require(apart, [one, " and ", other, " must be two organisations"].concat())?;
    }
    let currency = args.text(2, "currency")?;
    let known = currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase());
    require(known, "currency: expected three capital letters (ISO 4217)")?;
    terms.set_text("currency", currency);
    for (field, at) in
        [("amount", 1), ("tolerance", 3), ("latest-shipment", 8), ("expiry", 9), ("documents", 11)]
    {
        set_term(&mut terms, field, args, at)?;
    }
    terms.set_flag("partial", args.flag(10, "partial")?);
    terms.set_number("drawn", 0).set_number("presentations", 0).set_number("open", 0);
    check_dates(&terms)?;
    let credit = Credit { id: id.to_owned(), terms };
    credit.require_party(&["applicant"])?;
    credit.store();
    credit.tell("applied", &[])
}

pub fn issue(args: &Args) -> Answer {
    args.count(1, "issue(id)")?;
    let mut credit = Credit::load(args)?;
    credit.require_party(&["issuing-bank"])?;
    credit.require_status(&["applied"])?;
    require(chain::today() <= credit.last_day(), "the expiry asked for has passed")?;
    credit.become_status("issued")
}

pub fn decline(args: &Args) -> Answer {
    args.count(1, "decline(id)")?;
    let mut credit = Credit::load(args)?;
    credit.require_party(&["issuing-bank"])?;
    credit.require_status(&["applied"])?;
    credit.become_status("declined")
}

pub fn advise(args: &Args) -> Answer {
    args.count(1, "advise(id)")?;
    let mut credit = Credit::load(args)?;
    credit.require_party(&["advising-bank"])?;
    credit.require_status(&["issued"])?;
    credit.become_status("advised")
}

pub fn amend(args: &Args) -> Answer {
    args.count(3, "amend(id, field, value)")?;
    let credit = Credit::load(args)?;
    credit.require_party(&["applicant"])?;
    credit.require_status(&["issued", "advised"])?;
    let key = amendment_key(&credit);
    require(state::get(&key).is_none(), "an amendment is open; it must be settled first")?;
    let field = args.name(1, "field")?;
    // Tried here, so that a change that cannot hold is not put to the parties.
    set_term(&mut credit.terms.clone(), field, args, 2)?;
    let mut amendment = Record::new();
    amendment.set_text("field", field).set_text("value", args.text(2, "value")?);
    amendment.store(&key);
    credit.tell("amendment-proposed", &[("field", field)])
}

pub fn consent(args: &Args) -> Answer {
    args.count(1, "consent(id)")?;
    let mut credit = Credit::load(args)?;
    credit.require_party(&["issuing-bank", "beneficiary"])?;
    credit.require_status(&["issued", "advised"])?;
    let key = amendment_key(&credit);
    let mut amendment = Record::require(&key)?;
    let organisation = chain::caller().organisation;
    let party = match organisation == credit.terms.text("issuing-bank") {
        true => "issuing-bank",
        false => "beneficiary",
    };
    require(!amendment.flag(party), "this party has consented already")?;
    amendment.set_flag(party, true);
    if !(amendment.flag("issuing-bank") && amendment.flag("beneficiary")) {
        amendment.store(&key);
        return credit.tell("amendment-consented", &[("party", party)]);
    }
    let field = amendment.text("field").to_owned();
    let value = Args::new(vec![amendment.text("value").as_bytes().to_vec()]);
    set_term(&mut credit.terms, &field, &value, 0)?;
    check_dates(&credit.terms)?;
    state::delete(&key);
    credit.store();
    credit.tell("amended", &[("field", &field), ("value", amendment.text("value"))])
}

pub fn reject(args: &Args) -> Answer {
    args.count(1, "reject(id)")?;
    let credit = Credit::load(args)?;
    credit.require_party(&["issuing-bank", "beneficiary", "applicant"])?;
    let key = amendment_key(&credit);
    Record::require(&key)?;
    state::delete(&key);
    credit.tell("amendment-rejected", &[("by", &chain::caller().organisation)])
}

/// Checks and sets one of the terms that can be amended.
fn set_term(terms: &mut Record, field: &str, args: &Args, at: usize) -> Result<(), Refusal> {
    match field {
        "amount" => {
            let amount = args.number(at, field)?;
            require(amount > 0, "amount: more than 0")?;
            // Percentages of it must fit.
            require(amount <= u64::MAX / 200, "amount: too large")?;
            require(amount >= terms.number("drawn"), "amount: more is drawn already")?;
            terms.set_number(field, amount);
        }
        "tolerance" => {
            let tolerance = args.number(at, field)?;
            require(tolerance <= TOLERANCE_MAX, "tolerance: at most 10 percent")?;
            terms.set_number(field, tolerance);
        }
        "latest-shipment" | "expiry" => {
            terms.set_text(field, &args.date(at, field)?.text());
        }
        "documents" => {
            let mut names: Vec<&str> = args.text(at, field)?.split(',').collect();
            if !names.contains(&BILL_OF_LADING) {
                names.push(BILL_OF_LADING);
            }
            let fits = |b: u8| b.is_ascii_lowercase() || b == b'-';
            let named = |name: &&str| !name.is_empty() && name.bytes().all(fits);
            let distinct = (1..names.len()).all(|at| !names[..at].contains(&names[at]));
            let count = names.len() <= DOCUMENTS_MAX;
            require(
                count && distinct && names.iter().all(named),
                "documents: expected up to 16 different names, a-z and '-', with commas between",
            )?;
            terms.set_text(field, &names.join(","));
        }
        _ => return refuse("amendable: amount, tolerance, latest-shipment, expiry, documents"),
    }
    Ok(())
}

fn check_dates(terms: &Record) -> Result<(), Refusal> {
    // Dates as YYYY-MM-DD compare as text.
    let ordered = terms.text("latest-shipment") <= terms.text("expiry");
    require(ordered, "latest shipment must not be after expiry")?;
    let today = chain::today().text();
    require(today.as_str() <= terms.text("expiry"), "expiry: the day has passed")
}

fn amendment_key(credit: &Credit) -> String {
    ["amendment/", &credit.id].concat()
}
