//! `lifecycle`: which contracts exist and which code each runs.
//!
//! ```text
//! key    "name/" contract name                value  record (below)
//! key    "package/" digest as 64 hex digits   value  the package's bytes, stored once, kept
//!
//! record "obelisk.contract.1" | version string | kind string | package 32 | active u8
//!        | revision u32 | organisation string | deployed by string | tx 32 | height u64
//! ```
//!
//! Functions: `deploy(name, version, kind, package, init arguments...)`, `upgrade(name, version,
//! kind, package)`, `retire(name)`, `show(name)`, `list()` or `list(after)` (pages of 100). The
//! first three need a certificate of role admin; upgrading and retiring need one of the
//! organisation that deployed the contract, so no member can replace the code of another. Where the
//! code has an `init` it runs once, within the deploying transaction, and its fault fails the
//! deployment. An upgrade keeps the state and runs nothing; a retired contract keeps its state and
//! comes back only by an upgrade. Old packages stay, so that any past block can be executed again.

use bytes::Bytes;

use crate::chaincode::Call;
use crate::chaincode::Fault;
use crate::chaincode::Package;
use crate::chaincode::builtin;
use crate::chaincode::builtin::Builtin;
use crate::chaincode::builtin::Services;
use crate::chaincode::contracts::Contracts;
use crate::chaincode::contracts::ReadState;
use crate::chaincode::prices;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::receipt::Status;

/// The contract's name.
pub const NAME: &str = "lifecycle";
/// The function that deployment calls.
pub const INIT: &str = "init";
/// Contracts of one answer of `list`: their lines fit the limit of a return value.
pub const LIST_MAX: usize = 100;

const TAG: &[u8] = b"obelisk.contract.1";
const NAMES: &[u8] = b"name/";
/// First key behind all names: '0' follows '/'.
const NAMES_END: &[u8] = b"name0";

/// What runs under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Version, chosen by whoever deployed it.
    pub version: String,
    /// Row of the table of runtimes.
    pub kind: String,
    /// SHA-256 of the package.
    pub package: Digest,
    /// False once retired.
    pub active: bool,
    /// 1 at deployment, one more with each upgrade.
    pub revision: u32,
    /// Organisation that deployed it; only its admins may change it.
    pub organisation: String,
    /// Name of the admin who made this revision.
    pub by: String,
    /// Transaction that made this revision.
    pub tx: TxId,
    /// Its block.
    pub height: Height,
}

/// The contract.
pub struct Lifecycle;

impl Builtin for Lifecycle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn functions(&self) -> &'static [&'static str] {
        &[
            "deploy(name, version, kind, package, init arguments...)",
            "upgrade(name, version, kind, package)",
            "retire(name)",
            "show(name)",
            "list()",
            "list(after)",
        ]
    }

    fn run(
        &self,
        contracts: &Contracts,
        call: &Call,
        services: &mut Services<'_>,
    ) -> Result<Bytes, Fault> {
        match call.function.as_str() {
            "deploy" => deploy(contracts, call, services),
            "upgrade" => upgrade(contracts, call, services),
            "retire" => retire(call, services),
            "show" => show(call, services),
            "list" => list(call, services),
            _ => Err(builtin::unknown_function(self, call)),
        }
    }
}

/// The record of an active contract.
pub fn active(name: &str, read: &mut ReadState<'_>) -> Result<Record, Fault> {
    let unknown = |text| Fault::new(Status::UnknownChaincode, text);
    let Some(bytes) = read(NAME, &name_key(name))? else {
        return Err(unknown(format!(
            "no contract {name:?} on this chain; an admin deploys one with lifecycle.deploy"
        )));
    };
    let record = decode(&bytes)?;
    if !record.active {
        return Err(unknown(format!(
            "the contract {name:?} was retired at height {}; an upgrade brings it back",
            record.height
        )));
    }
    Ok(record)
}

/// The bytes of a stored package.
pub fn package(digest: &Digest, read: &mut ReadState<'_>) -> Result<Bytes, Fault> {
    read(NAME, &package_key(digest))?.ok_or_else(|| {
        Fault::new(Status::Trap, format!("damaged state: package {digest} is missing"))
    })
}

/// Where a contract's record is kept within the namespace `lifecycle`.
pub fn name_key(name: &str) -> Vec<u8> {
    [NAMES, name.as_bytes()].concat()
}

/// Where a package's bytes are kept within the namespace `lifecycle`.
pub fn package_key(digest: &Digest) -> Vec<u8> {
    format!("package/{digest}").into_bytes()
}

fn deploy(contracts: &Contracts, call: &Call, services: &mut Services<'_>) -> Result<Bytes, Fault> {
    builtin::require_admin(call)?;
    if call.args.len() < 4 {
        return Err(builtin::refused(format!(
            "expected deploy(name, version, kind, package, init arguments...), got {} arguments",
            call.args.len()
        )));
    }
    let name = new_name(call)?;
    if services.get(&name_key(name))?.is_some() {
        return Err(builtin::refused(format!(
            "a contract {name:?} exists; change its code with lifecycle.upgrade"
        )));
    }
    let organisation = call.caller.organisation.clone();
    let (record, has_init) = install(contracts, call, services, organisation, 1)?;
    services.put(&name_key(name), &record.to_bytes())?;
    let init_args = call.args[4..].to_vec();
    match has_init {
        true => {
            services.call(name, INIT, init_args)?;
        }
        false if !init_args.is_empty() => {
            return Err(builtin::refused(format!(
                "init arguments were given, but the contract {name:?} has no function \"init\""
            )));
        }
        false => {}
    }
    announce(services, "deployed", name, &record)
}

fn upgrade(
    contracts: &Contracts,
    call: &Call,
    services: &mut Services<'_>,
) -> Result<Bytes, Fault> {
    builtin::require_admin(call)?;
    builtin::require_args(call, 4, "upgrade(name, version, kind, package)")?;
    let (name, old) = owned(call, services)?;
    let revision = old
        .revision
        .checked_add(1)
        .ok_or_else(|| builtin::refused("the contract has the last possible revision"))?;
    let (record, _) = install(contracts, call, services, old.organisation.clone(), revision)?;
    if old.active && old.package == record.package && old.version == record.version {
        return Err(builtin::refused(format!(
            "the contract {name:?} runs this version with this package already"
        )));
    }
    services.put(&name_key(name), &record.to_bytes())?;
    announce(services, "upgraded", name, &record)
}

fn retire(call: &Call, services: &mut Services<'_>) -> Result<Bytes, Fault> {
    builtin::require_admin(call)?;
    builtin::require_args(call, 1, "retire(name)")?;
    let (name, mut record) = owned(call, services)?;
    if !record.active {
        return Err(builtin::refused(format!("the contract {name:?} is retired already")));
    }
    record.active = false;
    record.by = call.caller.name.clone();
    record.tx = call.tx;
    record.height = call.height;
    services.put(&name_key(name), &record.to_bytes())?;
    announce(services, "retired", name, &record)
}

fn show(call: &Call, services: &mut Services<'_>) -> Result<Bytes, Fault> {
    builtin::require_args(call, 1, "show(name)")?;
    let (name, record) = existing(call, services)?;
    Ok(Bytes::from(shown(name, &record).to_string()))
}

fn list(call: &Call, services: &mut Services<'_>) -> Result<Bytes, Fault> {
    let start = match call.args.len() {
        0 => NAMES.to_vec(),
        // The zero byte makes the start exclusive: no key lies between.
        1 => [name_key(builtin::text(call, 0, "after")?).as_slice(), &[0]].concat(),
        count => {
            let form = "list() or list(after)";
            return Err(builtin::refused(format!("expected {form}, got {count} arguments")));
        }
    };
    let lines = services
        .scan(&start, NAMES_END, LIST_MAX)?
        .iter()
        .map(|(key, bytes)| {
            let name = String::from_utf8_lossy(&key[NAMES.len()..]);
            decode(bytes).map(|record| shown(&name, &record))
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    Ok(Bytes::from(serde_json::Value::from(lines).to_string()))
}

/// Checks and stores the package of a deployment or an upgrade; says whether it has an `init`.
fn install(
    contracts: &Contracts,
    call: &Call,
    services: &mut Services<'_>,
    organisation: String,
    revision: u32,
) -> Result<(Record, bool), Fault> {
    let version = builtin::text(call, 1, "version")?;
    let kind = builtin::text(call, 2, "kind")?;
    let bytes = &call.args[3];
    if bytes.len() > limits::PACKAGE_BYTES_MAX {
        return Err(builtin::refused(format!(
            "the package has {} bytes, the limit is {}; build it smaller",
            bytes.len(),
            limits::PACKAGE_BYTES_MAX
        )));
    }
    services.charge(prices::of(bytes.len(), prices::PACKAGE_BYTE))?;
    let package = Package::new(bytes.clone());
    let contract = contracts.load(kind, &package)?;
    let at = package_key(&package.digest);
    if services.get(&at)?.is_none() {
        services.put(&at, bytes)?;
    }
    let record = Record {
        version: version.to_owned(),
        kind: kind.to_owned(),
        package: package.digest,
        active: true,
        revision,
        organisation,
        by: call.caller.name.clone(),
        tx: call.tx,
        height: call.height,
    };
    Ok((record, contract.has_init()))
}

/// A name for a new contract: it becomes a namespace, a path of the REST interface and a file name.
fn new_name(call: &Call) -> Result<&str, Fault> {
    let name = builtin::text(call, 0, "name")?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fits) {
        return Err(builtin::refused(format!(
            "name {name:?}: use a-z, 0-9, '-' and '_', and begin with a letter"
        )));
    }
    if builtin::find(name).is_some() {
        return Err(builtin::refused(format!("{name:?} is the name of a built-in contract")));
    }
    Ok(name)
}

fn existing<'a>(call: &'a Call, services: &mut Services<'_>) -> Result<(&'a str, Record), Fault> {
    let name = builtin::text(call, 0, "name")?;
    match services.get(&name_key(name))? {
        Some(bytes) => Ok((name, decode(&bytes)?)),
        None => Err(builtin::refused(format!("no contract {name:?} on this chain"))),
    }
}

fn owned<'a>(call: &'a Call, services: &mut Services<'_>) -> Result<(&'a str, Record), Fault> {
    let (name, record) = existing(call, services)?;
    if record.organisation == call.caller.organisation {
        return Ok((name, record));
    }
    Err(Fault::new(
        Status::Unauthorised,
        format!("the contract {name:?} belongs to {}; ask its admin", record.organisation),
    ))
}

fn announce(
    services: &mut Services<'_>,
    event: &str,
    name: &str,
    record: &Record,
) -> Result<Bytes, Fault> {
    let shown = Bytes::from(shown(name, record).to_string());
    services.emit(event, &shown)?;
    Ok(shown)
}

fn shown(name: &str, record: &Record) -> serde_json::Value {
    serde_json::json!({
        "name": name,
        "version": record.version,
        "kind": record.kind,
        "package": record.package.to_string(),
        "active": record.active,
        "revision": record.revision,
        "organisation": record.organisation,
        "by": record.by,
        "tx": record.tx.to_string(),
        "height": record.height.0,
    })
}

fn decode(bytes: &Bytes) -> Result<Record, Fault> {
    Record::from_bytes(bytes).map_err(|error| builtin::damaged("contract record", &error))
}

impl Encode for Record {
    fn encode(&self, w: &mut Writer) {
        w.raw(TAG);
        w.string(&self.version);
        w.string(&self.kind);
        self.package.encode(w);
        w.u8(u8::from(self.active));
        w.u32(self.revision);
        w.string(&self.organisation);
        w.string(&self.by);
        self.tx.encode(w);
        self.height.encode(w);
    }
}

impl Decode for Record {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.raw("contract tag", TAG.len())? != TAG {
            return Err(DecodeError::Invalid { field: "contract", reason: "unknown version" });
        }
        Ok(Self {
            version: r.string("version", limits::NAME_BYTES_MAX)?,
            kind: r.string("kind", limits::NAME_BYTES_MAX)?,
            package: Digest::decode(r)?,
            active: match r.u8("active")? {
                0 => false,
                1 => true,
                _ => return Err(DecodeError::Invalid { field: "active", reason: "not 0 or 1" }),
            },
            revision: r.u32("revision")?,
            organisation: r.string("organisation", limits::CERTIFICATE_BYTES_MAX)?,
            by: r.string("by", limits::CERTIFICATE_BYTES_MAX)?,
            tx: TxId::decode(r)?,
            height: Height::decode(r)?,
        })
    }
}
