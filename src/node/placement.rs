//! What the node takes of this machine: threads, memory and cores, from what `host` found and what
//! the configuration says.

use std::path::Path;

use crate::host::detect;
use crate::host::detect::Host;
use crate::host::pinning;
use crate::host::pinning::Plan;
use crate::host::sizing;
use crate::host::sizing::Sizing;
use crate::host::topology::Topology;
use crate::host::tree::Tree;
use crate::node::config::Config;
use crate::node::config::HostSection;
use crate::storage::RocksSizing;
use crate::types::limits;

/// A node's place on the machine.
#[derive(Clone, Debug)]
pub struct Placement {
    /// What was found.
    pub host: Host,
    /// Threads and memory of the parts.
    pub sizing: Sizing,
    /// Cores of the parts.
    pub plan: Plan,
}

impl Placement {
    /// The place of a node on this machine; `data` holds its ledger.
    pub fn of_machine(section: &HostSection, data: &Path) -> Self {
        let tree = Tree::machine();
        let home = pinning::node_of_disk(&tree, data);
        Self::new(section, detect::detect(None), &Topology::of_machine(), home)
    }

    /// The place of a node on a machine that looks like this.
    pub fn new(
        section: &HostSection,
        host: Host,
        topology: &Topology,
        home: Option<usize>,
    ) -> Self {
        let mut sized = host.clone();
        if section.memory_mib > 0 {
            let chosen = section.memory_mib.saturating_mul(1 << 20);
            sized.memory_usable_bytes = host.memory_usable_bytes.min(chosen);
        }
        let sizing = sizing::share(&sized, section.nodes);
        let plan = plan(section, &host, topology, home);
        Self { host, sizing, plan }
    }

    /// What the store takes.
    pub fn storage(&self) -> RocksSizing {
        let s = &self.sizing;
        RocksSizing {
            cache_bytes: s.cache_bytes,
            memtable_bytes: s.memtable_bytes,
            memtables: s.memtables,
            memtables_total_bytes: s.memtables_total_bytes,
            background_jobs: s.background_jobs,
            direct_io: s.direct_io,
            huge_page_bytes: s.huge_page_bytes,
        }
    }

    /// Threads that check signatures: the configuration's, or by the machine.
    pub fn verify_threads(&self, config: &Config) -> usize {
        let planned = self.plan.processors(pinning::Part::Verify).len();
        let threads = match config.crypto.verify_threads {
            0 if planned > 0 => planned,
            0 => self.sizing.verify_threads,
            chosen => chosen,
        };
        threads.clamp(1, limits::VERIFY_THREADS_MAX)
    }
}

/// Pinning is for a node that has its processors to itself.
fn plan(section: &HostSection, host: &Host, topology: &Topology, home: Option<usize>) -> Plan {
    let unpinned = |reason: String| Plan { reason, ..Plan::default() };
    let own = match host.allowed.is_empty() {
        true => topology.clone(),
        false => topology.within(&host.allowed),
    };
    let all = own.processors.len();
    if !section.pin {
        return unpinned("host.pin is false: the system schedules".to_owned());
    }
    if section.nodes > 1 && all == topology.processors.len() {
        return unpinned(format!(
            "{} nodes share all processors: nothing is pinned; give each its own with AllowedCPUs= \
             in its unit",
            section.nodes
        ));
    }
    if host.threads_usable < all {
        let quota = host.threads_usable;
        let reason = format!(
            "a CPU quota of {quota} thread(s) on {all}: nothing is pinned, a bound thread would \
             wait while others are idle"
        );
        return unpinned(reason);
    }
    Plan::new(&own, home)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::recorded;

    fn placed(name: &str, section: &HostSection, change: impl FnOnce(&mut Host)) -> Placement {
        let (_folder, tree) = recorded::machine(name);
        let mut host = detect::detect_tree(&tree, None);
        change(&mut host);
        Placement::new(section, host, &Topology::of_tree(&tree), None)
    }

    /// A server is pinned; a second node, a quota and the switch turn that off and say why.
    #[test]
    fn pinning_is_for_a_node_with_processors_of_its_own() {
        let alone = HostSection::default();
        assert!(placed("x86-server", &alone, |_| {}).plan.is_pinned());
        let two = HostSection { nodes: 2, ..alone.clone() };
        assert!(placed("x86-server", &two, |_| {}).plan.reason.contains("AllowedCPUs"));
        let half = placed("x86-server", &two, |host| {
            host.allowed = (0..8).chain(16..24).collect();
            host.threads_usable = 16;
        });
        assert!(half.plan.is_pinned());
        let verify = half.plan.processors(pinning::Part::Verify);
        assert!(verify.iter().all(|p| half.host.allowed.contains(p)));
        let quota = placed("x86-server", &alone, |host| host.threads_usable = 4);
        assert!(quota.plan.reason.contains("quota"), "{}", quota.plan.reason);
        let off = HostSection { pin: false, ..alone };
        assert!(!placed("x86-server", &off, |_| {}).plan.is_pinned());
    }

    /// The store gets what the sizing says; the configuration may lower it.
    #[test]
    fn storage_and_pools_take_what_the_sizing_says() {
        let alone = HostSection::default();
        let large = placed("x86-server", &alone, |_| {});
        assert!(large.storage().cache_bytes > 64 << 30 && large.storage().direct_io);
        let section = HostSection { memory_mib: 4096, ..alone };
        let lowered = placed("x86-server", &section, |_| {});
        assert_eq!(
            (lowered.storage().cache_bytes, lowered.storage().direct_io),
            (128 << 20, false)
        );
    }
}
