//! Checks of the crypto providers and of what the processor offers them.

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::crypto::choice::Route;
use crate::crypto::known_answers::Operation;
use crate::crypto::routing::Crypto;
use crate::host::cpacf::Cpacf;
use crate::host::detect::Architecture;
use crate::network::tls_provider::TlsProvider;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "crypto.known-answers",
        about: "does every provider compute right",
        run: known_answers,
    },
    Check { id: "crypto.providers", about: "are the configured providers usable", run: providers },
    Check {
        id: "crypto.second-opinion",
        about: "can a second provider repeat checks",
        run: second_opinion,
    },
    Check { id: "crypto.hardware", about: "does the processor speed up hashing", run: hardware },
    Check {
        id: "crypto.cpacf",
        about: "do the functions of CPACF match what is claimed",
        run: cpacf,
    },
];

fn routes(scope: &Scope) -> Result<&[Route], Finding> {
    let fix = "test this machine's memory; then install the package again";
    scope.routes().as_deref().map_err(|error| Finding::refused(error, fix))
}

fn known_answers(scope: &Scope) -> Answer {
    let routes = routes(scope)?;
    let failed: Vec<String> = routes
        .iter()
        .filter_map(|route| {
            let answer = route.quarantined?;
            let (operation, algorithm) = (route.operation.name(), route.operation.algorithm());
            Some(format!("{} fails {operation} {algorithm} ({answer})", route.provider))
        })
        .collect();
    Ok(match failed.is_empty() {
        true => Finding::ok(format!("{} pairs of provider and operation passed", routes.len())),
        false => Finding::warning(
            format!("in quarantine: {}", failed.join(", ")),
            "update the library; obelisk crypto list shows what is used instead",
        ),
    })
}

fn providers(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let crypto = Crypto::new(&config.routing())
        .map_err(|error| Finding::refused(&error, "obelisk crypto list names the providers"))?;
    let chosen = Operation::ALL.map(|operation| {
        format!("{} {}: {}", operation.name(), operation.algorithm(), crypto.chosen(operation))
    });
    let tls = TlsProvider::named(&config.crypto.tls)
        .map_err(|error| Finding::refused(&error, "correct crypto.tls, or say auto"))?;
    Ok(Finding::ok(format!("{}, tls: {}", chosen.join(", "), tls.name())))
}

fn second_opinion(scope: &Scope) -> Answer {
    let routes = routes(scope)?;
    let verifies = Operation::ALL.iter().filter(|operation| operation.name() == VERIFY);
    let lonely: Vec<&str> = verifies
        .filter(|operation| {
            let healthy = |r: &&Route| r.operation == **operation && r.quarantined.is_none();
            routes.iter().filter(healthy).count() < 2
        })
        .map(|operation| operation.algorithm())
        .collect();
    Ok(match lonely.is_empty() {
        true => Finding::ok("every algorithm has two"),
        false => Finding::warning(
            format!("{} has one provider: a wrong one would go unnoticed", lonely.join(", ")),
            "use a build with a second provider (features openssl, ring)",
        ),
    })
}

fn hardware(scope: &Scope) -> Answer {
    let crypto = &scope.host.crypto;
    Ok(match crypto.sha256 {
        true => Finding::ok(format!(
            "SHA-256 in hardware ({}; by {})",
            crypto.names.join(" "),
            crypto.told_by
        )),
        false => Finding::note(format!("SHA-256 in software; known by {}", crypto.told_by)),
    })
}

/// The trap: facility bits promise what the queries deny, and the denied instruction kills the
/// process.
fn cpacf(scope: &Scope) -> Answer {
    if scope.host.architecture != Architecture::S390x {
        return Err(Finding::skipped("not a processor of IBM Z"));
    }
    let Some(offered) = scope.cpu_info.as_deref().and_then(Cpacf::parse) else {
        return Ok(Finding::note("libcrypto does not say; only facility bits are known"));
    };
    let claims = |name: &str| scope.host.crypto.names.contains(&name);
    let broken: Vec<&str> = [
        (claims("msa"), offered.sha256(), "SHA-256"),
        (claims("msa8"), offered.aes_gcm(), "AES-GCM"),
        (claims("msa9"), offered.ecdsa_p256(), "ECDSA P-256"),
    ]
    .iter()
    .filter(|(claimed, there, _)| *claimed && !there)
    .map(|(_, _, name)| *name)
    .collect();
    let names = offered.names().join(", ");
    Ok(match broken.is_empty() {
        true => Finding::ok(names),
        false => Finding::warning(
            format!(
                "facility bits claim {}, the queries deny it; offered: {names}",
                broken.join(", ")
            ),
            "enable feature 3863 (CPACF) for the partition, or give the guest the host's CPU model; \
             do not use libica here",
        ),
    })
}

const VERIFY: &str = "verify";
