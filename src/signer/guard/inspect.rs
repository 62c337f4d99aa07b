//! Looks at a guard's log without opening it for signing: takes no lock and changes nothing, so a
//! running signer is not disturbed.

use std::fs;
use std::path::Path;

use crate::signer::guard::GuardError;
use crate::signer::guard::check_owner;
use crate::signer::guard::format;
use crate::signer::guard::format::Header;
use crate::signer::guard::format::State;
use crate::signer::guard::newest_of;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::signature::PublicKey;

/// What a log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Slots recorded and not forgotten.
    pub slots: usize,
    /// Highest sequence number among them, or forgotten; zero where there is none.
    pub newest: SequenceNumber,
    /// Grows each time the identity is allowed to sign from a new guard.
    pub fencing_epoch: u64,
    /// Whether it signs.
    pub state: State,
    /// An append was cut short, or is under way.
    pub torn: bool,
}

/// Reads the log of a key on a chain.
pub fn inspect(path: &Path, chain: ChainId, key: &PublicKey) -> Result<Inspection, GuardError> {
    let io_error =
        |source| GuardError::Io { doing: "read the slot guard", path: path.to_owned(), source };
    let damaged = |damage: format::Damage| GuardError::Damaged {
        path: path.to_owned(),
        offset: damage.offset,
        reason: damage.reason,
    };
    if fs::metadata(path).map_err(io_error)?.len() > limits::GUARD_FILE_BYTES_MAX {
        let reason = "the file is larger than any guard's log";
        return Err(damaged(format::Damage { offset: 0, reason }));
    }
    let bytes = fs::read(path).map_err(io_error)?;
    let header = Header::parse(&bytes).map_err(damaged)?;
    check_owner(path, &header, chain, key)?;
    let scan = format::scan(&bytes, &header).map_err(damaged)?;
    let newest = newest_of(scan.records.iter().map(|(slot, _)| slot));
    Ok(Inspection {
        slots: scan.records.len(),
        newest: newest.unwrap_or_default().max(header.floor.sequence),
        fencing_epoch: header.fencing_epoch,
        state: header.state,
        torn: scan.torn,
    })
}
