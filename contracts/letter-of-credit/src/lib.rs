//! A documentary letter of credit: the buyer's bank pays the seller against documents.
//!
//! Parties are organisations: applicant (buyer), beneficiary (seller), issuing bank, advising bank,
//! carrier. Each step is allowed to its party only, by clients and admins of that organisation; a
//! certificate with the attribute `trade` acts only for the party it names (for example
//! `trade=carrier`). The rules are those of UCP 600 (ICC publication 600), article in brackets.
//!
//! - `apply(id, amount, currency, tolerance, beneficiary, issuing bank, advising bank, carrier,
//!   latest shipment, expiry, partial, documents)`, applicant: asks for a credit
//! - `issue(id)`, issuing bank: binds itself, irrevocably [7]
//! - `decline(id)`, issuing bank: ends the application
//! - `advise(id)`, advising bank: vouches for the credit to the beneficiary [9]
//! - `amend(id, field, value)`, applicant: proposes a change [10]
//! - `consent(id)`, issuing bank, beneficiary: the change holds once both agree; silence is no
//!   consent [10]
//! - `reject(id)`, issuing bank, beneficiary, applicant: ends the proposal
//! - `ship(id, bill, goods, shipped on)`, carrier: issues a bill of lading [20]
//! - `present(id, bill, amount, documents)`, beneficiary, advising bank: hands in documents
//! - `accept(id, number)`, issuing bank: documents comply: it must pay [15]
//! - `refuse(id, number, discrepancies)`, issuing bank: within 5 banking days, all at once [14b,
//!   16]
//! - `waive(id, number)`, applicant: takes the documents as they are [16b]
//! - `preclude(id, number)`, beneficiary: after 5 banking days of silence they count as accepted
//!   [16f]
//! - `pay(id, number)`, issuing bank: pays; the bill of lading goes to the applicant
//! - `expire(id)`, any party: closes a credit that has run out
//! - `show(id)`, `presentation(id, number)`, `bill(id, bill)`, anyone: one record as JSON
//! - `list()` or `list(after)`, anyone: ids with their status, 100 at a time
//!
//! Amounts are whole numbers of the smallest unit; tolerance is a percentage from 0 to 10 [30];
//! dates are YYYY-MM-DD, UTC; partial is `yes` or `no`; documents are named in a list,
//! `invoice,insurance`, to which `bill-of-lading` is always added. Presented documents are
//! `name=digest` pairs, `invoice=64 hex digits,insurance=...`; the bill of lading is the one on
//! this ledger. Fields that can be amended: amount, tolerance, latest-shipment, expiry, documents.
//!
//! `present` refuses what the ledger can see to be wrong: after expiry or more than 21 days after
//! shipment [14c], late shipment, overdrawn [18b, 30], missing or malformed documents, a bill of
//! another credit or one already used, a part where parts are not allowed [31]. What only eyes can
//! see is the bank's to examine. Banking days are Monday to Friday: local holidays are not known to
//! the chain. An expiry that is no banking day extends to the next [29a]; a latest shipment does
//! not [29c].
//!
//! State: `credit/ID`, `amendment/ID`, `bill/ID/BILL`, `presentation/ID/NUMBER`, each flat JSON.

#![cfg_attr(target_arch = "wasm32", no_std)]

mod presentation;
mod shipment;
mod terms;

use obelisk_contract::prelude::*;

contract! {
    "apply" => terms::apply,
    "issue" => terms::issue,
    "decline" => terms::decline,
    "advise" => terms::advise,
    "amend" => terms::amend,
    "consent" => terms::consent,
    "reject" => terms::reject,
    "ship" => shipment::ship,
    "present" => presentation::present,
    "accept" => presentation::accept,
    "refuse" => presentation::refuse_documents,
    "waive" => presentation::waive,
    "preclude" => presentation::preclude,
    "pay" => presentation::pay,
    "expire" => presentation::expire,
    "show" => show,
    "presentation" => show_presentation,
    "bill" => show_bill,
    "list" => list,
}

/// Credits of one answer of `list`.
const LIST_MAX: usize = 100;

/// A credit with its id.
struct Credit {
    id: String,
    terms: Record,
}

impl Credit {
    fn load(args: &Args) -> Result<Self, Refusal> {
        let id = args.name(0, "id")?.to_owned();
        let terms = Record::require(&["credit/", &id].concat())?;
        Ok(Self { id, terms })
    }

    fn store(&self) {
        self.terms.store(&["credit/", &self.id].concat());
    }

    fn status(&self) -> &str {
        self.terms.text("status")
    }

    /// Refuses unless the credit is in one of these states.
    fn require_status(&self, allowed: &[&str]) -> Result<(), Refusal> {
        match allowed.contains(&self.status()) {
            true => Ok(()),
            false => refuse(format_status(self.status(), allowed)),
        }
    }

    /// Refuses callers who are none of these parties.
    fn require_party(&self, parties: &[&str]) -> Result<(), Refusal> {
        let caller = chain::caller();
        if !matches!(caller.role.as_str(), "client" | "admin") {
            return refuse(["certificates of role ", &caller.role, " do not trade"].concat());
        }
        let bound = chain::attribute("trade");
        let acts = |party: &&&str| {
            self.terms.text(party) == caller.organisation
                && bound.as_deref().is_none_or(|bound| bound == **party)
        };
        if parties.iter().find(acts).is_some() {
            return Ok(());
        }
        let wanted: Vec<String> = parties
            .iter()
            .map(|party| [*party, " (", self.terms.text(party), ")"].concat())
            .collect();
        refuse(["this is for the ", &wanted.join(" or the "), " to do"].concat())
    }

    fn date(&self, field: &str) -> Date {
        Date::parse(self.terms.text(field)).expect("dates of a credit were checked")
    }

    /// Last day on which documents may be presented [29a].
    fn last_day(&self) -> Date {
        self.date("expiry").banking_day_from()
    }

    /// Stores the credit with a new status and tells who listens.
    fn become_status(&mut self, status: &str) -> Answer {
        self.terms.set_text("status", status);
        self.store();
        self.tell(status, &[])
    }

    /// Emits an event and answers with it.
    fn tell(&self, what: &str, more: &[(&str, &str)]) -> Answer {
        let json = Json::object().text("credit", &self.id).text("event", what);
        let json = more.iter().fold(json, |json, (name, value)| json.text(name, value));
        let text = json.finish();
        chain::emit(what, &text);
        Ok(text.into_bytes())
    }
}

fn format_status(status: &str, allowed: &[&str]) -> String {
    ["the credit is ", status, "; this needs one that is ", &allowed.join(" or ")].concat()
}

fn show(args: &Args) -> Answer {
    args.count(1, "show(id)")?;
    let credit = Credit::load(args)?;
    credit.terms.json().text("id", &credit.id).answer()
}

fn show_presentation(args: &Args) -> Answer {
    args.count(2, "presentation(id, number)")?;
    Record::require(&presentation::key(args.name(0, "id")?, args.number(1, "number")?))?
        .json()
        .answer()
}

fn show_bill(args: &Args) -> Answer {
    args.count(2, "bill(id, bill)")?;
    Record::require(&shipment::key(args.name(0, "id")?, args.name(1, "bill")?))?.json().answer()
}

fn list(args: &Args) -> Answer {
    args.between(0, 1, "list() or list(after)")?;
    let after = if args.is_empty() { "" } else { args.name(0, "after")? };
    let mut json = Json::list();
    for (id, value) in state::list("credit/", after, LIST_MAX) {
        let terms = Record::parse(&value).expect("credits are written by this contract");
        json.push(Json::object().text("id", &id).text("status", terms.text("status")));
    }
    json.answer()
}

#[cfg(test)]
mod tests;
