//! Checks of what a node has written: its directory, ledger, state and guard.

use std::os::unix::fs::PermissionsExt;

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::identity;
use crate::cli::doctor::scope;
use crate::cli::doctor::scope::Heights;
use crate::cli::doctor::scope::Scope;
use crate::ledger::LedgerError;
use crate::node::assembly::has_signed;
use crate::node::config::NodeRole;
use crate::node::config::SignerMode;
use crate::signer::guard::format::State;
use crate::signer::guard::inspect;
use crate::types::ids::Height;
use crate::types::limits;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "data.owner", about: "does the data belong to one user alone", run: owner },
    Check { id: "data.running", about: "is a node using the data", run: running },
    Check { id: "data.chain", about: "is the ledger of this network", run: chain },
    Check { id: "data.blocks", about: "are the block files whole", run: blocks },
    Check { id: "data.state", about: "does the state agree with the blocks", run: state },
    Check { id: "data.tree", about: "does the state tree fit in memory", run: tree },
    Check {
        id: "guard.log",
        about: "is the record of signed slots there and readable",
        run: guard_log,
    },
    Check { id: "guard.age", about: "is it as young as the ledger", run: guard_age },
    Check { id: "guard.mode", about: "can only its owner change it", run: guard_mode },
];

fn owner(scope: &Scope) -> Answer {
    let data = &scope.config()?.node.data;
    if !data.exists() {
        return Ok(Finding::note(format!("{} is made at the first start", data.display())));
    }
    let owner = scope::owner(data).map_err(|error| Finding::skipped(error.to_string()))?;
    if !identity::is_guarded(data) {
        return Ok(Finding::error(
            format!("everybody may write to {}", data.display()),
            format!("chmod 700 {}", data.display()),
        ));
    }
    for name in ["ledger", "state", "guard", "consensus"] {
        let path = data.join(name);
        let foreign = path.exists() && scope::owner(&path).is_ok_and(|found| found != owner);
        if foreign {
            return Ok(Finding::error(
                format!("{} belongs to another user than {}", path.display(), data.display()),
                format!("chown -R --reference={0} {0}", data.display()),
            ));
        }
    }
    Ok(Finding::ok(format!("user {owner}")))
}

fn running(scope: &Scope) -> Answer {
    let data = &scope.config()?.node.data;
    Ok(match scope::held(data) {
        true => Finding::note("a node runs on this data; its ledger was checked at its start"),
        false => Finding::ok("no node runs on this data"),
    })
}

/// What the ledger is refused for; a node that uses it answers for it.
fn opened(scope: &Scope) -> Result<Result<&Heights, &LedgerError>, Finding> {
    match scope.ledger()? {
        Err(LedgerError::InUse { .. }) => Err(Finding::skipped("a node is using the ledger")),
        Err(error) => Ok(Err(error)),
        Ok(heights) => Ok(Ok(heights)),
    }
}

fn refused(error: &LedgerError) -> Finding {
    Finding::refused(error, "move the data directory away; the node fetches its blocks again")
}

fn chain(scope: &Scope) -> Answer {
    match opened(scope)? {
        Err(error @ LedgerError::OtherChain { .. }) => Ok(refused(error)),
        Err(_) => Err(Finding::skipped("the ledger is refused for another reason")),
        Ok(_) => Ok(Finding::ok("blocks and state are of the genesis document's chain")),
    }
}

fn blocks(scope: &Scope) -> Answer {
    match opened(scope)? {
        Err(
            error @ (LedgerError::Damaged { .. }
            | LedgerError::Io { .. }
            | LedgerError::BlocksLost { .. }),
        ) => Ok(refused(error)),
        Err(_) => Err(Finding::skipped("the ledger is refused for another reason")),
        Ok(heights) => Ok(Finding::ok(format!("{} blocks", heights.stored))),
    }
}

fn state(scope: &Scope) -> Answer {
    match opened(scope)? {
        Err(error @ (LedgerError::Divergence(_) | LedgerError::Storage(_))) => Ok(refused(error)),
        Err(_) => Err(Finding::skipped("the ledger is refused for another reason")),
        Ok(Heights { stored, applied, .. }) if stored == applied => {
            Ok(Finding::ok(format!("both at height {stored}, and the root is the recorded one")))
        }
        Ok(Heights { stored, applied, .. }) => Ok(Finding::note(format!(
            "the state is at {applied}, the blocks at {stored}: the rest is executed at the start"
        ))),
    }
}

fn tree(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let sizing = &scope.placement.sizing;
    let state = config.node.data.join("state");
    let bytes: u64 = match std::fs::read_dir(&state) {
        Err(_) => return Err(Finding::skipped("there is no state yet")),
        Ok(entries) => entries.flatten().filter_map(|e| Some(e.metadata().ok()?.len())).sum(),
    };
    // A row of the state takes at least this much on disk, compressed, with its indexes.
    let keys = bytes / STATE_ROW_BYTES_MIN;
    let text =
        format!("at most {keys} keys in {} MiB, room for {}", bytes >> 20, sizing.tree_keys());
    Ok(match keys > sizing.tree_keys() {
        true => Finding::warning(
            format!("{text}: the tree lives in memory and may outgrow its share"),
            "give the machine more memory, or raise host.memory_mib",
        ),
        false => Finding::ok(text),
    })
}

fn guard(scope: &Scope) -> Result<std::path::PathBuf, Finding> {
    let config = scope.config()?;
    if config.node.role == NodeRole::Observer {
        return Err(Finding::skipped("an observer signs nothing"));
    }
    if config.signer.mode == SignerMode::Process {
        return Err(Finding::skipped("the signer keeps it: see signer.records"));
    }
    Ok(config.node.data.join("guard/slots.log"))
}

fn inspected(scope: &Scope) -> Result<Option<inspect::Inspection>, Finding> {
    let path = guard(scope)?;
    if !path.exists() {
        return Ok(None);
    }
    let genesis = scope.genesis()?;
    let identity = scope.members()?.enrolment.identity();
    let identity = identity.map_err(|error| Finding::refused(&error, "enrol the node again"))?;
    let fix = "docs/signer.md says how to go on";
    let seen = inspect::inspect(&path, genesis.chain_id(), &identity.key);
    seen.map(Some).map_err(|error| Finding::refused(&error, fix))
}

fn guard_log(scope: &Scope) -> Answer {
    let seen = inspected(scope)?;
    let data = &scope.config()?.node.data;
    let height = scope.ledger().ok().and_then(|ledger| ledger.as_ref().ok().map(|h| h.stored));
    let signed = has_signed(data, Height(height.unwrap_or_default()));
    Ok(match (seen, signed) {
        (Some(seen), _) if seen.state == State::Stopped => Finding::error(
            "it is stopped: another signer uses this key",
            "find and stop the other one; docs/signer.md says how to go on",
        ),
        (Some(seen), _) if seen.state == State::Retired => Finding::error(
            "it is retired: its record was handed over to another signer",
            "start that one, with signer.mode = \"process\" here",
        ),
        (Some(seen), _) if seen.state == State::Unproven => Finding::warning(
            "it waits for peers: this key has signed what the record did not hold",
            "let the node run; it votes again by itself",
        ),
        (Some(seen), _) => Finding::ok(format!(
            "{} slots, fencing epoch {}{}",
            seen.slots,
            seen.fencing_epoch,
            if seen.torn { ", an unfinished append at its end" } else { "" }
        )),
        (None, false) => Finding::note("none yet: this key has signed nothing"),
        (None, true) => Finding::error(
            "it is missing, and this key has signed: it could sign twice",
            "put the file back where it was moved; where it is lost: obelisk signer renew (docs/signer.md)",
        ),
    })
}

fn guard_age(scope: &Scope) -> Answer {
    let Some(seen) = inspected(scope).map_err(|_| Finding::skipped("see guard.log"))? else {
        return Err(Finding::skipped("there is none yet"));
    };
    let heights = match opened(scope)? {
        Ok(heights) => heights,
        Err(_) => return Err(Finding::skipped("the ledger is refused: see data")),
    };
    let (newest, tip) = (seen.newest.0, heights.sequence);
    if heights.voted.is_some_and(|voted| voted > newest) {
        return Ok(Finding::warning(
            format!(
                "the newest slot is {newest}, and the last block has this key's vote for {tip}: \
                 the record is an old copy, or another signer uses the key"
            ),
            "start the node: it fences the record, keeps silent for a while and goes on above it",
        ));
    }
    Ok(match tip.saturating_sub(newest) > limits::GUARD_SEQUENCES_KEPT {
        true => Finding::warning(
            format!(
                "the newest slot is {newest}, the ledger is at sequence {tip}: an old backup, or a \
                 replica that long only followed"
            ),
            "nothing: its peers show the node what the record lacks, and it goes on above that",
        ),
        false => Finding::ok(format!("newest slot {newest}, ledger at sequence {tip}")),
    })
}

fn guard_mode(scope: &Scope) -> Answer {
    let path = guard(scope)?;
    let Ok(metadata) = path.metadata() else { return Err(Finding::skipped("there is none yet")) };
    let mode = metadata.permissions().mode() & 0o777;
    Ok(match mode & 0o022 {
        0 => Finding::ok(format!("mode {mode:o}")),
        _ => Finding::error(
            format!("mode {mode:o}: others can make this key sign twice"),
            format!("chmod 600 {}", path.display()),
        ),
    })
}

const STATE_ROW_BYTES_MIN: u64 = 48;
