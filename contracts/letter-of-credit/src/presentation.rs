//! Presentation of documents, the bank's examination, payment.

use obelisk_contract::json;
use obelisk_contract::prelude::*;

use crate::Credit;
use crate::shipment;
use crate::terms;

/// Calendar days after shipment within which documents must be presented [14c].
const PRESENTATION_DAYS: u64 = 21;
/// Banking days that a bank has to examine documents [14b].
const EXAMINATION_DAYS: u64 = 5;
/// Percentage by which a drawing may fall short where parts are not allowed [30c].
const SHORT_PERCENT: u64 = 5;

/// A presentation with its credit.
struct Presentation {
    credit: Credit,
    number: u64,
    record: Record,
}

impl Presentation {
    fn load(args: &Args) -> Result<Self, Refusal> {
        let credit = Credit::load(args)?;
        let number = args.number(1, "number")?;
        let record = Record::require(&key(&credit.id, number))?;
        Ok(Self { credit, number, record })
    }

    fn require_status(&self, allowed: &[&str]) -> Result<(), Refusal> {
        let status = self.record.text("status");
        let text = || ["the presentation is ", status, ", not ", &allowed.join(" or ")].concat();
        match allowed.contains(&status) {
            true => Ok(()),
            false => refuse(text()),
        }
    }

    /// Last day of the examination.
    fn deadline(&self) -> Date {
        let presented = Date::parse(self.record.text("presented")).expect("dates are ours");
        presented.plus_banking_days(EXAMINATION_DAYS)
    }

    fn become_status(&mut self, status: &str) -> Answer {
        self.record.set_text("status", status);
        self.record.store(&key(&self.credit.id, self.number));
        self.credit.store();
        let number = decimal(self.number);
        self.credit.tell(status, &[("presentation", &number)])
    }

    /// Passes the bill of lading on.
    fn endorse(&self, party: &str, presentation: u64) {
        let holder = self.credit.terms.text(party);
        shipment::endorse(&self.credit.id, self.record.text("bill"), holder, presentation);
    }

    /// Changes the number of presentations that wait for a decision or for payment.
    fn add_open(&mut self, more: bool) {
        let open = self.credit.terms.number("open");
        let open = if more { open + 1 } else { open - 1 };
        self.credit.terms.set_number("open", open);
    }
}

/// Where a presentation is stored.
pub fn key(id: &str, number: u64) -> String {
    ["presentation/", id, "/", &decimal(number)].concat()
}

pub fn present(args: &Args) -> Answer {
    args.count(4, "present(id, bill, amount, documents)")?;
    let mut credit = Credit::load(args)?;
    credit.require_party(&["beneficiary", "advising-bank"])?;
    credit.require_status(&["advised"])?;
    let amount = args.number(2, "amount")?;
    let bill_number = args.name(1, "bill")?;
    let Some(bill) = Record::load(&shipment::key(&credit.id, bill_number)) else {
        return refuse("no such bill of lading was issued for this credit");
    };
    check_times(&credit, &bill)?;
    check_amount(&credit, amount)?;
    require(bill.number("presentation") == 0, "this bill of lading was presented already")?;
    let documents = args.bytes(3);
    let documents = core::str::from_utf8(documents).unwrap_or("?");
    check_documents(credit.terms.text("documents"), documents)?;

    let number = credit.terms.number("presentations") + 1;
    let drawn = credit.terms.number("drawn") + amount;
    credit.terms.set_number("presentations", number).set_number("drawn", drawn);
    let mut record = Record::new();
    record
        .set_text("status", "presented")
        .set_text("presented", &chain::today().text())
        .set_text("bill", bill_number)
        .set_number("amount", amount)
        .set_text("documents", documents)
        .set_text("by", &chain::caller().full_name());
    let mut presentation = Presentation { credit, number, record };
    presentation.add_open(true);
    presentation.endorse("issuing-bank", number);
    presentation.become_status("presented")
}

pub fn accept(args: &Args) -> Answer {
    args.count(2, "accept(id, number)")?;
    let mut presentation = Presentation::load(args)?;
    presentation.credit.require_party(&["issuing-bank"])?;
    presentation.require_status(&["presented", "waived"])?;
    presentation.become_status("accepted")
}

pub fn refuse_documents(args: &Args) -> Answer {
    args.count(3, "refuse(id, number, discrepancies)")?;
    let mut presentation = Presentation::load(args)?;
    presentation.credit.require_party(&["issuing-bank"])?;
    presentation.require_status(&["presented"])?;
    require(
        chain::today() <= presentation.deadline(),
        "five banking days have passed: the bank can no longer claim discrepancies",
    )?;
    // One notice, with all discrepancies [16c].
    presentation.record.set_text("discrepancies", args.text(2, "discrepancies")?);
    give_back(&mut presentation);
    presentation.become_status("refused")
}

pub fn waive(args: &Args) -> Answer {
    args.count(2, "waive(id, number)")?;
    let mut presentation = Presentation::load(args)?;
    presentation.credit.require_party(&["applicant"])?;
    presentation.require_status(&["refused"])?;
    presentation.credit.require_status(&["advised"])?;
    let amount = presentation.record.number("amount");
    check_amount(&presentation.credit, amount)?;
    let bill = shipment::key(&presentation.credit.id, presentation.record.text("bill"));
    let bill = Record::require(&bill)?;
    require(bill.number("presentation") == 0, "the bill of lading was presented again")?;
    let drawn = presentation.credit.terms.number("drawn") + amount;
    presentation.credit.terms.set_number("drawn", drawn);
    presentation.add_open(true);
    presentation.endorse("issuing-bank", presentation.number);
    presentation.become_status("waived")
}

pub fn preclude(args: &Args) -> Answer {
    args.count(2, "preclude(id, number)")?;
    let mut presentation = Presentation::load(args)?;
    presentation.credit.require_party(&["beneficiary"])?;
    presentation.require_status(&["presented"])?;
    let passed = chain::today() > presentation.deadline();
    require(passed, "the bank still has time to examine the documents")?;
    presentation.become_status("accepted")
}

pub fn pay(args: &Args) -> Answer {
    args.count(2, "pay(id, number)")?;
    let mut presentation = Presentation::load(args)?;
    presentation.credit.require_party(&["issuing-bank"])?;
    presentation.require_status(&["accepted"])?;
    presentation.record.set_text("paid", &chain::today().text());
    presentation.add_open(false);
    presentation.endorse("applicant", presentation.number);
    let terms = &mut presentation.credit.terms;
    let done = !terms.flag("partial") || terms.number("drawn") >= terms.number("amount");
    if done && terms.number("open") == 0 {
        terms.set_text("status", "settled");
    }
    presentation.become_status("paid")
}

pub fn expire(args: &Args) -> Answer {
    args.count(1, "expire(id)")?;
    let mut credit = Credit::load(args)?;
    credit.require_party(&["applicant", "beneficiary", "issuing-bank", "advising-bank"])?;
    credit.require_status(&["applied", "issued", "advised"])?;
    require(chain::today() > credit.last_day(), "the credit has not expired")?;
    let open = credit.terms.number("open");
    require(open == 0, "documents presented in time still wait for a decision or for payment")?;
    credit.become_status("expired")
}

/// Documents go back to who presented them; the amount is free to be drawn again.
fn give_back(presentation: &mut Presentation) {
    let amount = presentation.record.number("amount");
    let drawn = presentation.credit.terms.number("drawn") - amount;
    presentation.credit.terms.set_number("drawn", drawn);
    presentation.add_open(false);
    presentation.endorse("beneficiary", 0);
}

fn check_times(credit: &Credit, bill: &Record) -> Result<(), Refusal> {
    let today = chain::today();
    require(today <= credit.last_day(), "the credit has expired")?;
    let shipped = Date::parse(bill.text("shipped")).expect("dates of a bill were checked");
    let in_time = shipped <= credit.date("latest-shipment");
    require(in_time, "late shipment: the goods went on board after the latest shipment")?;
    let fresh = today <= shipped.plus(PRESENTATION_DAYS);
    require(fresh, "more than 21 days after shipment: the documents are stale")
}

fn check_amount(credit: &Credit, amount: u64) -> Result<(), Refusal> {
    let terms = &credit.terms;
    let (whole, tolerance) = (terms.number("amount"), terms.number("tolerance"));
    let most = whole + whole * tolerance / 100;
    let left = most - terms.number("drawn").min(most);
    require(amount > 0 && amount <= left, {
        let mut text = String::from("amount: the credit allows from 1 to ");
        json::push_number(&mut text, left);
        text
    })?;
    if terms.flag("partial") {
        return Ok(());
    }
    let least = whole - whole * tolerance.max(SHORT_PERCENT) / 100;
    require(
        terms.number("drawn") == 0 && amount >= least,
        "the credit does not allow drawing in parts",
    )
}

/// Each required document once, by the digest of its text; others are disregarded [14g].
fn check_documents(required: &str, presented: &str) -> Result<(), Refusal> {
    let mut seen: Vec<&str> = Vec::new();
    for document in presented.split(',').filter(|document| !document.is_empty()) {
        let Some((name, digest)) = document.split_once('=') else {
            return refuse("documents: expected name=digest pairs with commas between");
        };
        let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        require(is_digest, ["document ", name, ": expected a SHA-256, 64 hex digits"].concat())?;
        require(!seen.contains(&name), ["document ", name, ": presented twice"].concat())?;
        seen.push(name);
    }
    let missing: Vec<&str> = required
        .split(',')
        .filter(|name| *name != terms::BILL_OF_LADING && !seen.contains(name))
        .collect();
    require(missing.is_empty(), ["missing documents: ", &missing.join(", ")].concat())
}

fn decimal(number: u64) -> String {
    let mut text = String::new();
    json::push_number(&mut text, number);
    text
}
