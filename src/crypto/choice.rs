//! Which provider does what: known answers, measurement, choice.
//!
//! ```text
//! tested -> calibrate -> choose, per operation and class: incumbent or preferred, unless another
//!                        healthy one is clearly faster
//! ```
//!
//! The incumbent is what the profile says; without one it is the first healthy provider in the
//! order of preference.

use std::sync::Arc;
use std::time::Duration;

use crate::crypto::Provider;
use crate::crypto::batch;
use crate::crypto::calibration;
use crate::crypto::calibration::CLASSES;
use crate::crypto::known_answers;
use crate::crypto::known_answers::Example;
use crate::crypto::known_answers::Operation;
use crate::crypto::profile::Profile;
use crate::crypto::routing::AUTO;
use crate::crypto::routing::Routing;
use crate::crypto::routing::RoutingError;
use crate::types::signature::Algorithm;

/// One pair of the report: what the start found and chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Provider.
    pub provider: &'static str,
    /// Operation and algorithm.
    pub operation: Operation,
    /// Nanoseconds per text or signature by class, where it was measured.
    pub times: [Option<u64>; CLASSES],
    /// The known answer that failed, where one did.
    pub quarantined: Option<&'static str>,
    /// The classes in which this provider does this operation from now on.
    pub classes: [bool; CLASSES],
    /// Whether there are any.
    pub chosen: bool,
}

/// The Ed25519 equation for groups, which is no provider's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batching {
    /// Nanoseconds per signature by class, where it was measured.
    pub times: [Option<u64>; CLASSES],
    /// Groups of this size are checked by it; smaller ones singly.
    pub from: usize,
}

/// Tables of the multiples of P-256 keys: whose they are and whether they pay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tabling {
    /// The provider that keeps them.
    pub provider: Option<&'static str>,
    /// The known answer that failed, where one did.
    pub quarantined: Option<&'static str>,
    /// Nanoseconds per signature, where it was measured.
    pub time: Option<u64>,
    /// Whether keys that sign much get one.
    pub used: bool,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// What the choice needs, for at most about 100 ms.
    Start,
    /// Every healthy pair in every class, signing too: for people.
    Whole,
}

/// Order of choice where measurements do not decide, and for TLS. On s390x and Power the assembly is
/// OpenSSL's: aws-lc has none for s390x and AES-GCM alone for Power, ring none for either.
pub const PREFERENCE: [&str; 4] = if cfg!(any(target_arch = "s390x", target_arch = "powerpc64")) {
    ["openssl", "aws-lc", "ring", "portable"]
} else {
    ["aws-lc", "ring", "openssl", "portable"]
};

/// By how much another provider must be faster than the one in use: less is noise, and a stable
/// choice is worth more.
pub const CLEARLY_PERCENT: u64 = 20;

/// The same where nothing is in use yet and an order of preference alone speaks against it.
const FIRST_PERCENT: u64 = 10;

/// Providers that leave private keys in freed memory: only used for signing where named.
const DOES_NOT_WIPE: [&str; 1] = ["ring"];

/// Time of the calibration of a start, split over all that is measured.
const CALIBRATION: Duration = Duration::from_millis(100);

/// Time for measuring checks with a table, which takes some milliseconds to compute.
const TABLES_CALIBRATION: Duration = Duration::from_millis(4);

/// Time per figure where everything is measured.
const WHOLE: Duration = Duration::from_millis(20);

/// Runs the known answers of every pair.
pub(super) fn tested(providers: &'static [Provider]) -> Vec<Route> {
    let mut report = Vec::new();
    for operation in Operation::ALL {
        for provider in providers {
            let quarantined = known_answers::check(provider, operation).err();
            if let Some(reason) = quarantined {
                tracing::error!(
                    provider = provider.name,
                    operation = operation.name(),
                    algorithm = operation.algorithm(),
                    reason,
                    "crypto provider failed its known answers and is not used for this",
                );
            }
            report.push(Route {
                provider: provider.name,
                operation,
                times: [None; CLASSES],
                quarantined,
                classes: [false; CLASSES],
                chosen: false,
            });
        }
    }
    report
}

/// Measures healthy pairs: those left to `auto` at start, all where the effort is whole.
pub(super) fn calibrate(
    providers: &'static [Provider],
    routing: &Routing,
    effort: Effort,
    report: &mut [Route],
) -> Batching {
    let wanted = |route: &Route, class: usize| {
        let needed = match route.operation {
            Operation::Hash => true,
            // Without an equation for groups a group costs what its signatures cost.
            Operation::Verify(_) => class == 0,
            // Signing is not chosen by speed.
            Operation::Sign(_) => false,
        };
        let asked = effort == Effort::Whole || (needed && routing.of(route.operation) == AUTO);
        route.quarantined.is_none() && asked
    };
    let figures = |route: &Route| (0..CLASSES).filter(|class| wanted(route, *class)).count();
    let count = report.iter().map(figures).sum::<usize>() + CLASSES - 1;
    let budget = match effort {
        Effort::Start => CALIBRATION / u32::try_from(count).unwrap_or(u32::MAX),
        Effort::Whole => WHOLE,
    };
    for route in report.iter_mut() {
        let provider = by_name(providers, route.provider);
        for class in 0..CLASSES {
            if wanted(route, class) {
                let time = calibration::measure(provider, route.operation, class, budget);
                route.times[class] = Some(time);
            }
        }
    }
    let ed25519 = Operation::Verify(Algorithm::Ed25519);
    let mut batching = Batching { times: [None; CLASSES], from: batch::BATCH_MIN };
    if effort == Effort::Whole || routing.of(ed25519) == AUTO {
        for class in 1..CLASSES {
            let time = calibration::measure_batch(&providers[0], class, budget);
            batching.times[class] = Some(time);
        }
    }
    batching
}

/// Whether P-256 keys get tables: those of the provider that the operator named, or of any where
/// they are clearly faster than the chosen one's single checks, which take `single` nanoseconds.
pub(super) fn tables(
    providers: &'static [Provider],
    routing: &Routing,
    effort: Effort,
    single: Option<u64>,
) -> Tabling {
    let wanted = routing.of(Operation::Verify(Algorithm::EcdsaP256));
    let asked = |name: &str| wanted == AUTO || wanted == name;
    let public = Example::of(Algorithm::EcdsaP256).public;
    let mut tabling = Tabling::default();
    for provider in providers.iter().filter(|provider| asked(provider.name)) {
        // Computed once for both: it takes as long as everything else here.
        let Some(table) = (provider.table)(&public).map(Arc::new) else { continue };
        tabling.provider = Some(provider.name);
        tabling.quarantined = known_answers::check_table(provider, &table).err();
        if let Some(reason) = tabling.quarantined {
            let provider = provider.name;
            tracing::error!(provider, reason, "key tables failed their known answers: not used");
            continue;
        }
        let budget = if effort == Effort::Start { TABLES_CALIBRATION } else { WHOLE };
        tabling.time = Some(calibration::measure_table(provider, &table, budget));
        tabling.used = match (tabling.time, single) {
            (Some(new), Some(old)) if wanted == AUTO => clearly_faster(new, old, CLEARLY_PERCENT),
            _ => true,
        };
        break;
    }
    tabling
}

/// From which size on the equation is used, given what a single check costs.
pub(super) fn batch_from(batching: &Batching, single: Option<u64>) -> usize {
    let Some(single) = single else { return batch::BATCH_MIN };
    let worse = |class: usize| {
        batching.times[class].is_some_and(|time| clearly_faster(single, time, CLEARLY_PERCENT))
    };
    match (worse(1), worse(2)) {
        (false, _) => batch::BATCH_MIN,
        (true, false) => LARGE_GROUP,
        (true, true) => usize::MAX,
    }
}

/// Healthy providers of an operation, preferred first.
pub(super) fn healthy(
    report: &[Route],
    operation: Operation,
) -> impl Iterator<Item = &'static str> {
    let mut names: Vec<&'static str> = report
        .iter()
        .filter(|r| r.operation == operation && r.quarantined.is_none())
        .map(|r| r.provider)
        .collect();
    names.sort_by_key(|name| PREFERENCE.iter().position(|p| p == name).unwrap_or(usize::MAX));
    names.into_iter()
}

/// The provider of an operation in a class.
pub(super) fn choose(
    report: &[Route],
    operation: Operation,
    class: usize,
    name: &str,
    profile: &Profile,
) -> Result<&'static str, RoutingError> {
    let route_of =
        |name: &str| report.iter().find(|r| r.operation == operation && r.provider == name);
    if name != AUTO {
        return named(report, operation, name);
    }
    let signing = matches!(operation, Operation::Sign(_));
    let candidates: Vec<_> = healthy(report, operation)
        .filter(|name| !signing || !DOES_NOT_WIPE.contains(name))
        .collect();
    let (operation_name, algorithm) = (operation.name(), operation.algorithm());
    let none_left = RoutingError::NoneLeft { operation: operation_name, algorithm };
    let preferred = *candidates.first().ok_or(none_left)?;
    let class_name = calibration::classes(operation)[class];
    let last = profile.choice(operation_name, algorithm, class_name);
    let incumbent = candidates.iter().copied().find(|name| Some(*name) == last);
    let percent = if incumbent.is_some() { CLEARLY_PERCENT } else { FIRST_PERCENT };
    let mut best = incumbent.unwrap_or(preferred);
    for candidate in candidates {
        let time = |name| route_of(name).and_then(|r| r.times[class].or(r.times[0]));
        if let (Some(new), Some(old)) = (time(candidate), time(best))
            && clearly_faster(new, old, percent)
        {
            best = candidate;
        }
    }
    Ok(best)
}

/// A provider that the operator named.
fn named(report: &[Route], operation: Operation, name: &str) -> Result<&'static str, RoutingError> {
    let (operation_name, algorithm) = (operation.name(), operation.algorithm());
    if name.starts_with("pkcs11:") {
        let (name, operation) = (name.to_owned(), operation_name);
        return Err(RoutingError::Token { name, operation, algorithm });
    }
    let mut rows = report.iter().filter(|r| r.operation == operation);
    let known = || rows.clone().map(|r| r.provider).collect::<Vec<_>>().join(", ");
    let unknown = RoutingError::Unknown {
        name: name.to_string(),
        operation: operation_name,
        algorithm,
        known: known(),
    };
    let route = rows.find(|r| r.provider == name).ok_or(unknown)?;
    match route.quarantined {
        None => Ok(route.provider),
        Some(reason) => Err(RoutingError::Quarantined {
            name: route.provider,
            operation: operation_name,
            algorithm,
            reason,
        }),
    }
}

pub(super) fn by_name(providers: &'static [Provider], name: &str) -> &'static Provider {
    providers.iter().find(|p| p.name == name).expect("names in the report come from this table")
}

/// Whether `new` takes less time than `old` by that many percent of it.
fn clearly_faster(new: u64, old: u64, percent: u64) -> bool {
    new.saturating_mul(100) < old.saturating_mul(100 - percent)
}

/// Groups that are as large as the third class rather than the second, by ratio.
const LARGE_GROUP: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Operation = Operation::Hash;

    fn row(provider: &'static str, times: [u64; CLASSES]) -> Route {
        let times = times.map(Some);
        let (classes, chosen) = ([false; CLASSES], false);
        Route { provider, operation: HASH, times, quarantined: None, classes, chosen }
    }

    fn choice(report: &[Route], class: usize, profile: &Profile) -> &'static str {
        choose(report, HASH, class, AUTO, profile).unwrap()
    }

    /// Aim: each class has its own winner, and a little faster is not enough to leave the preferred
    /// one.
    #[test]
    fn each_class_is_chosen_by_its_own_figures() {
        let report = [row("portable", [50, 95, 300]), row(PREFERENCE[0], [100, 100, 100])];
        let none = Profile::default();
        assert_eq!(choice(&report, 0, &none), "portable");
        assert_eq!(choice(&report, 1, &none), PREFERENCE[0]);
        assert_eq!(choice(&report, 2, &none), PREFERENCE[0]);
    }

    /// Aim: what the profile says stands until another is clearly faster; one that is quarantined
    /// or gone does not stand.
    #[test]
    fn the_choice_of_the_last_start_stands_against_noise() {
        let mut profile = Profile::default();
        profile.record("hash", "sha256", "64 B", "portable");
        let noise = [row("portable", [100, 1, 1]), row(PREFERENCE[0], [85, 1, 1])];
        assert_eq!(choice(&noise, 0, &profile), "portable");
        assert_eq!(choice(&noise, 0, &Profile::default()), PREFERENCE[0]);
        let clear = [row("portable", [100, 1, 1]), row(PREFERENCE[0], [79, 1, 1])];
        assert_eq!(choice(&clear, 0, &profile), PREFERENCE[0]);
        let mut ill = noise.clone();
        ill[0].quarantined = Some("test");
        assert_eq!(choice(&ill, 0, &profile), PREFERENCE[0]);
        assert_eq!(choice(&noise[1..], 0, &profile), PREFERENCE[0]);
    }

    /// Aim: groups leave the equation only where single checks are clearly faster, as they may be
    /// where the processor has an instruction for them.
    #[test]
    fn the_equation_gives_way_to_clearly_faster_single_checks() {
        let from = |small, large, single| {
            let batching = Batching { times: [None, Some(small), Some(large)], from: 0 };
            batch_from(&batching, single)
        };
        assert_eq!(from(17, 14, Some(36)), batch::BATCH_MIN);
        assert_eq!(from(17, 14, Some(15)), batch::BATCH_MIN);
        assert_eq!(from(17, 14, Some(12)), LARGE_GROUP);
        assert_eq!(from(17, 14, Some(5)), usize::MAX);
        assert_eq!(from(17, 14, None), batch::BATCH_MIN);
    }
}
