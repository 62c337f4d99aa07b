//! The life of one letter of credit, told by its parties: each signs with its own key and hands its
//! transaction to its own bank's or its own organisation's validator.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::cli::demo::network;
use crate::cli::demo::place::Place;
use crate::cli::demo::watch::Watch;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link::client_failure;
use crate::cli::output;
use crate::client::connection::Client;
use crate::client::connection::Located;
use crate::client::identity::ClientIdentity;
use crate::client::invocation::Invocation;
use crate::host::clock::now_ms;
use crate::membership::identity::Role;
use crate::types::digest::Digest;
use crate::types::ids::TxId;
use crate::types::receipt::Status;

/// The contract's name on the ledger.
pub const CONTRACT: &str = "letter-of-credit";

/// What a transaction meant, in words, by its id.
pub type Meanings = BTreeMap<TxId, String>;

/// What came of a story.
#[derive(Debug)]
pub struct Told {
    /// Name of the credit.
    pub credit: String,
    /// What each transaction meant.
    pub meanings: Meanings,
    /// Height before the first one.
    pub from: u64,
    /// Height of the last one.
    pub to: u64,
    /// The credit as the contract shows it in the end.
    pub end: Value,
    /// Who holds the bill of lading in the end.
    pub holder: String,
}

/// One party at its desk.
pub struct Party {
    identity: ClientIdentity,
    node: Client,
}

struct Step {
    who: &'static str,
    function: &'static str,
    args: Vec<String>,
    outcome: Status,
    meaning: String,
}

/// Opens a party's desk: its key, and a connection to its own validator, or to the issuing bank's
/// where it has none or its own does not run.
pub fn party(
    place: &Place,
    watch: &Watch,
    organisation: &str,
    role: Role,
    runs: impl Fn(usize) -> bool,
) -> Result<Party, Failure> {
    let validators = 0..place.marker.validators;
    let own = place.marker.organisations.iter().position(|name| name == organisation);
    let own = own.filter(|i| validators.contains(i) && runs(*i));
    let Some(i) = own.or_else(|| validators.clone().find(|i| runs(*i))) else {
        let cause = "no validator runs";
        return Err(Failure::new(Exit::Unreachable, cause, "start them with `obelisk demo`"));
    };
    let folder = network::member(place, organisation, role);
    let identity = ClientIdentity::load(&folder, watch.network().crypto()).map_err(|error| {
        Failure::of(Exit::Internal, &error, "`obelisk demo --reset` makes everything new")
    })?;
    Ok(Party { identity, node: watch.client(place, i, organisation, role)? })
}

impl Party {
    /// Signs, hands in, waits for the block.
    pub fn invoke(&self, watch: &Watch, call: &Invocation) -> Result<(TxId, Located), Failure> {
        let done = watch.wait(async {
            let transaction = self.node.sign(&self.identity, call).await?;
            let certificate = Some(self.identity.certificate());
            let located = self.node.submit_and_wait(&transaction, certificate, COMMITTED_WITHIN);
            Ok((transaction.id(), located.await?))
        });
        done.map_err(|error| client_failure(&error))
    }

    /// Asks the party's node; nothing is written.
    pub fn query(&self, watch: &Watch, call: &Invocation) -> Result<Value, Failure> {
        let bytes = watch.wait(self.node.query(call)).map_err(|error| client_failure(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let cause = format!("the contract's answer is no JSON: {error}");
            Failure::new(Exit::Internal, cause, "`obelisk demo --reset` makes everything new")
        })
    }
}

/// Deploys the contract where the chain does not have it, then lives one credit from application
/// to payment. `progress` hears of each step.
pub fn tell(place: &Place, watch: &Watch, mut progress: impl FnMut(&str)) -> Result<Told, Failure> {
    let all = |_| true;
    let admin = party(place, watch, "issuing-bank", Role::Admin, all)?;
    let mut parties = BTreeMap::new();
    for name in network::PARTIES {
        parties.insert(name, party(place, watch, name, Role::Client, all)?);
    }
    let from = watch.statuses().iter().flatten().map(|status| status.height).max().unwrap_or(0);
    let mut meanings = Meanings::new();
    deploy(watch, &admin, &mut meanings, &mut progress)?;
    let credit = format!("lc-{}", from + 1);
    let mut to = from;
    for step in steps(&credit) {
        progress(&step.meaning);
        let call = Invocation::new(CONTRACT, step.function);
        let call = step.args.iter().fold(call, |call, arg| call.arg(arg));
        let (id, located) = parties[step.who].invoke(watch, &call)?;
        let receipt = &located.receipt;
        if receipt.status != step.outcome {
            let (status, error) = (receipt.status.name(), output::tame(&receipt.error));
            let cause = format!("{} by {}: {status} {error}", step.function, step.who);
            return Err(Failure::new(Exit::Refused, cause, "`obelisk demo --reset` starts over"));
        }
        meanings.insert(id, step.meaning);
        to = located.height.0;
    }
    // Somebody else than the payer is asked, at another node: it may be a block behind.
    watch.until_equal(place)?;
    let asked = &parties["advising-bank"];
    let end = asked.query(watch, &Invocation::new(CONTRACT, "show").arg(&credit))?;
    let bill = Invocation::new(CONTRACT, "bill").arg(&credit).arg(BILL);
    let bill = asked.query(watch, &bill)?;
    let holder = bill["holder"].as_str().unwrap_or_default().to_owned();
    Ok(Told { credit, meanings, from, to, end, holder })
}

/// An application for a credit: one plain transaction.
pub fn application(credit: &str) -> Invocation {
    let call = Invocation::new(CONTRACT, "apply");
    terms(credit).iter().fold(call, |call, arg| call.arg(arg))
}

fn deploy(
    watch: &Watch,
    admin: &Party,
    meanings: &mut Meanings,
    progress: &mut impl FnMut(&str),
) -> Result<(), Failure> {
    let digest = Digest::of(&[PACKAGE]).to_string();
    let known = admin.query(watch, &Invocation::new("lifecycle", "show").arg(CONTRACT));
    let (function, version, meaning) = match known {
        Ok(shown) if shown["package"] == digest.as_str() && shown["active"] == true => {
            return Ok(());
        }
        Ok(shown) => {
            let version = shown["revision"].as_u64().unwrap_or(0) + 1;
            ("upgrade", version, "The issuing bank brings a new version of the contract.")
        }
        Err(_) => ("deploy", 1, "The issuing bank deploys the contract for letters of credit."),
    };
    progress(meaning);
    let call = Invocation::new("lifecycle", function);
    let call = call.arg(CONTRACT).arg(version.to_string()).arg("wasm").arg(PACKAGE);
    let (id, located) = admin.invoke(watch, &call)?;
    let receipt = located.receipt;
    if receipt.status != Status::Ok {
        let cause = format!("{function}: {} {}", receipt.status.name(), receipt.error);
        return Err(Failure::new(Exit::Refused, cause, "`obelisk demo --reset` starts over"));
    }
    meanings.insert(id, meaning.to_owned());
    Ok(())
}

/// The whole life, one refusal included.
fn steps(credit: &str) -> Vec<Step> {
    let ok = |who, function, more: &[&str], meaning: &str| Step {
        who,
        function,
        args: [credit].iter().chain(more).map(|arg| (*arg).to_owned()).collect(),
        outcome: Status::Ok,
        meaning: meaning.to_owned(),
    };
    let documents = format!(
        "invoice={},insurance={}",
        Digest::of(&[b"invoice 4711"]),
        Digest::of(&[b"policy 0815"])
    );
    let today = day(0);
    let goods = "2 x 40' containers of coffee, 38,400 kg";
    let mut apply = ok(
        "importer",
        "apply",
        &[],
        "The importer asks its bank for a credit: 250,000.00 USD for coffee.",
    );
    apply.args = terms(credit);
    let refused = Step {
        outcome: Status::Refused,
        ..ok(
            "carrier",
            "pay",
            &["1"],
            "The carrier tries to order the payment. The contract refuses.",
        )
    };
    vec![
        apply,
        ok("issuing-bank", "issue", &[], "The issuing bank binds itself to pay against documents."),
        ok(
            "advising-bank",
            "advise",
            &[],
            "The advising bank vouches for the credit to the exporter.",
        ),
        ok(
            "carrier",
            "ship",
            &[BILL, goods, &today],
            "The carrier takes the goods on board and issues the bill of lading.",
        ),
        ok(
            "exporter",
            "present",
            &[BILL, AMOUNT, &documents],
            "The exporter presents bill of lading, invoice and insurance.",
        ),
        refused,
        ok(
            "issuing-bank",
            "accept",
            &["1"],
            "The issuing bank finds the documents in order: it must pay.",
        ),
        ok(
            "issuing-bank",
            "pay",
            &["1"],
            "The issuing bank pays; the bill of lading goes to the importer.",
        ),
    ]
}

fn terms(credit: &str) -> Vec<String> {
    let (latest_shipment, expiry) = (day(30), day(51));
    [
        credit,
        AMOUNT,
        "USD",
        "0",
        "exporter",
        "issuing-bank",
        "advising-bank",
        "carrier",
        &latest_shipment,
        &expiry,
        "no",
        "invoice,insurance",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A day from today on, UTC, YYYY-MM-DD.
fn day(ahead: u64) -> String {
    let text = output::time(now_ms() + ahead * 24 * 60 * 60 * 1000);
    text.split('T').next().unwrap_or_default().to_owned()
}

/// The sample contract, as built by contracts/build.sh.
const PACKAGE: &[u8] = include_bytes!("../../../contracts/wasm/letter-of-credit.wasm");
/// Cents.
const AMOUNT: &str = "25000000";
const BILL: &str = "bl-1";
/// A view change may lie between.
const COMMITTED_WITHIN: Duration = Duration::from_secs(60);
