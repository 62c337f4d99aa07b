//! Checks of the crypto adapters of IBM Z (Crypto Express).

use std::collections::BTreeSet;

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::host::devices;
use crate::host::devices::AdapterMode;
use crate::host::devices::ApBus;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "adapter.online", about: "are the crypto adapters usable", run: online },
    Check { id: "adapter.mode", about: "can they hold signing keys", run: mode },
    Check { id: "adapter.master-keys", about: "do all carry one master key", run: master_keys },
    Check { id: "adapter.device", about: "can programs reach them", run: device },
    Check {
        id: "adapter.protected-keys",
        about: "can keys sign on the processor",
        run: protected_keys,
    },
];

fn bus(scope: &Scope) -> Result<ApBus, Finding> {
    let bus = devices::ap_bus(&scope.tree);
    match bus.present && !bus.adapters.is_empty() {
        true => Ok(bus),
        false => Err(Finding::skipped("this machine has no crypto adapters")),
    }
}

fn online(scope: &Scope) -> Answer {
    let bus = bus(scope)?;
    let stopped = bus.adapters.iter().filter(|a| a.check_stopped).map(|a| a.id.as_str());
    let stopped: Vec<&str> = stopped.collect();
    if !stopped.is_empty() {
        return Ok(Finding::error(
            format!("adapter {} stopped itself after an error", stopped.join(", ")),
            "have the adapter serviced; lszcrypt -V shows its state",
        ));
    }
    let off = bus.adapters.iter().filter(|a| !a.online).map(|a| a.id.as_str()).collect::<Vec<_>>();
    let count = bus.adapters.len();
    Ok(match off.len() {
        0 => Finding::ok(format!("{count} online")),
        all if all == count => Finding::error("none is online", "chzcrypt -e -a"),
        _ => Finding::warning(
            format!("adapter {} is off: there may be no standby", off.join(", ")),
            format!("chzcrypt -e {}", off.join(" ")),
        ),
    })
}

fn mode(scope: &Scope) -> Answer {
    let bus = bus(scope)?;
    let is = |mode| bus.adapters.iter().filter(|a| a.mode == Some(mode)).count();
    let (ep11, cca) = (is(AdapterMode::Ep11), is(AdapterMode::Cca));
    Ok(match ep11 + cca {
        0 => Finding::advice(
            "accelerators only: they speed up RSA, which this ledger does not use",
            "set two of them to EP11 mode on the hardware management console, to keep keys there",
        ),
        _ => Finding::ok(format!("{ep11} in EP11 mode, {cca} in CCA mode")),
    })
}

fn master_keys(scope: &Scope) -> Answer {
    let bus = bus(scope)?;
    let online: Vec<_> = bus.queues.iter().filter(|queue| queue.online).collect();
    if online.is_empty() {
        return Err(Finding::skipped("no queue is online"));
    }
    let without = online.iter().filter(|queue| queue.master_key.is_none());
    let without: Vec<&str> = without.map(|queue| queue.id.as_str()).collect();
    let keys: BTreeSet<&String> = online.iter().filter_map(|q| q.master_key.as_ref()).collect();
    let fix = "load one master key into all domains of the node, from a TKE workstation";
    Ok(match (without.is_empty(), keys.len()) {
        (true, 1) => Finding::ok(format!("one master key in {} queues", online.len())),
        (false, _) => {
            Finding::error(format!("queue {} has no valid master key", without.join(", ")), fix)
        }
        (true, found) => Finding::error(
            format!("{found} different master keys: keys made on one card fail on another"),
            fix,
        ),
    })
}

fn device(scope: &Scope) -> Answer {
    Ok(match bus(scope)?.device {
        true => Finding::ok("z90crypt is there"),
        false => Finding::error("there is no device z90crypt", "modprobe zcrypt_cex4"),
    })
}

fn protected_keys(scope: &Scope) -> Answer {
    Ok(match bus(scope)?.pkey {
        true => Finding::ok("pkey is loaded"),
        false => Finding::advice(
            "pkey is not loaded: every signature takes a trip to the card",
            "modprobe pkey",
        ),
    })
}
