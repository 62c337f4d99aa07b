//! Everything a new network needs, in one folder.
//!
//! ```text
//! <out>/genesis.bin                    what all members share
//! <out>/client.toml                    profile of org1's client and admin, all nodes
//! <out>/<organisation>/node.toml       configuration of its validator
//! <out>/<organisation>/client.toml     profile of its client and admin, its own node first
//! <out>/<organisation>/ca, <role>/..   keys and certificates (`membership::consortium`)
//! <out>/<organisation>/data            made by the node at its first start
//!
//! with `--signer process` also
//! <out>/<organisation>/signer.toml     configuration of its signer
//! <out>/<organisation>/signer/         validator.pem, moved here from the validator's folder;
//!                                      socket and guard, made by the signer
//! ```
//!
//! For demonstration, tests and pilots: one place holds all keys. Validator number i (from 0)
//! listens on base port + 10 i: REST over TLS on +0, peers on +1, gRPC on +3, and where the host
//! is a loopback address, REST without TLS on +2.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;

use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::member;
use crate::cli::network::ports::GRPC;
use crate::cli::network::ports::PEERS;
use crate::cli::network::ports::PORTS_EACH;
use crate::cli::network::ports::REST;
use crate::cli::network::ports::REST_PLAIN;
use crate::cli::profile;
use crate::cli::profile::Profile;
use crate::consensus;
use crate::crypto::routing::Crypto;
use crate::host::clock::now_ms;
use crate::membership::consortium::Consortium;
use crate::membership::consortium::ConsortiumError;
use crate::membership::consortium::Member;
use crate::membership::consortium::Spec;
use crate::membership::identity::Role;
use crate::membership::msp;
use crate::node::config::ApiSection;
use crate::node::config::Config;
use crate::node::config::ConsensusSection;
use crate::node::config::CryptoSection;
use crate::node::config::HostSection;
use crate::node::config::LogSection;
use crate::node::config::NetworkSection;
use crate::node::config::NodeRole;
use crate::node::config::NodeSection;
use crate::node::config::PeerSection;
use crate::node::config::SignerMode;
use crate::node::config::SignerSection;
use crate::node::config::StorageSection;
use crate::node::signer::card::KeyCard;
use crate::node::signer::config::KeySection;
use crate::node::signer::config::ProcessSection;
use crate::node::signer::config::SignerConfig;
use crate::node::signer::config::ValidatorSection;
use crate::types::genesis::Genesis;
use crate::types::limits;
use crate::types::signature::Algorithm;

/// What to make.
#[derive(Clone, Debug)]
pub struct Plan {
    /// New folder.
    pub out: PathBuf,
    /// Organisations `org1`, `org2`, .. with one validator, one client and one admin each.
    pub validators: usize,
    /// Algorithm of the members' enrolment keys.
    pub algorithm: Algorithm,
    /// First port.
    pub base_port: u16,
    /// Name of the network.
    pub name: String,
    /// Row of the consensus plug-in table.
    pub consensus: String,
    /// Address that nodes listen on.
    pub host: String,
    /// Where validators' keys are used.
    pub signer: SignerMode,
    /// Key cards of validators whose keys are on tokens, by organisation; they have a signer
    /// process whatever `signer` says.
    pub cards: Vec<(String, PathBuf)>,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The shared document.
    pub genesis: Genesis,
    /// Where it lies.
    pub genesis_path: PathBuf,
    /// The profile for clients, in the network's folder.
    pub profile: PathBuf,
    /// Configurations of the validators, in the order of the replica set.
    pub nodes: Vec<PathBuf>,
}

/// The plug-in that suits a number of validators: the Byzantine one wherever it runs.
pub fn consensus_for(validators: usize) -> &'static str {
    let least = consensus::plugin("pbft").map_or(usize::MAX, |row| row.replicas_min);
    if validators >= least { "pbft" } else { "noops" }
}

/// Makes the network; refuses a folder that holds one already.
pub fn make(plan: &Plan) -> Result<Made, Failure> {
    check(plan)?;
    let mut spec = Spec::local(&plan.name, plan.validators, plan.algorithm, now_ms());
    spec.consensus.clone_from(&plan.consensus);
    for member in spec.organisations.iter_mut().flat_map(|o| &mut o.members) {
        if !member.hosts.contains(&plan.host) {
            member.hosts.push(plan.host.clone());
        }
    }
    let cards = read_cards(plan, &mut spec)?;
    let made = Consortium::make(&plan.out, &spec, &Crypto::portable())
        .map_err(|error| consortium_failure(&error))?;
    let validators: Vec<&Member> = made.of_role(Role::Validator).collect();
    let addresses: Vec<Addresses> = (0..plan.validators).map(|i| Addresses::of(plan, i)).collect();
    let mut nodes = Vec::new();
    for (i, validator) in validators.iter().enumerate() {
        let folder = plan.out.join(&validator.organisation);
        let mut config = config(&folder, i, &validators, &addresses);
        // Validators of a loopback address live on one machine.
        if plan.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
            config.host.nodes = plan.validators;
        }
        let card = cards.get(&validator.organisation);
        if card.is_some() || plan.signer == SignerMode::Process {
            config.signer = hand_over(&folder, validator, card)?;
        }
        let path = folder.join("node.toml");
        write(&path, &config.to_toml())?;
        nodes.push(path);
        let profile = client("..", "", i, &addresses);
        write(&folder.join(profile::FILE), &profile.to_toml())?;
    }
    let first = format!("{}/", validators[0].organisation);
    let profile = client("", &first, 0, &addresses);
    let profile_path = plan.out.join(profile::FILE);
    write(&profile_path, &profile.to_toml())?;
    let Consortium { genesis, genesis_path, .. } = made;
    Ok(Made { genesis, genesis_path, profile: profile_path, nodes })
}

/// Where one validator listens.
struct Addresses {
    rest: String,
    /// Empty where the host is not this machine alone.
    rest_plain: String,
    peers: String,
    grpc: String,
}

impl Addresses {
    fn of(plan: &Plan, i: usize) -> Self {
        let base = usize::from(plan.base_port) + i * PORTS_EACH;
        let host = match plan.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => plan.host.clone(),
        };
        let at = |offset: usize| format!("{host}:{}", base + offset);
        let local = plan.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let rest_plain = if local { at(REST_PLAIN) } else { String::new() };
        Self { rest: at(REST), rest_plain, peers: at(PEERS), grpc: at(GRPC) }
    }
}

fn check(plan: &Plan) -> Result<(), Failure> {
    let n = plan.validators;
    if n == 0 || n > limits::REPLICAS_MAX {
        let cause = format!("{n} validators are not possible");
        let fix = format!("choose --validators from 1 to {}", limits::REPLICAS_MAX);
        return Err(Failure::usage(cause, fix));
    }
    let last = usize::from(plan.base_port) + (n - 1) * PORTS_EACH + GRPC;
    if plan.base_port == 0 || last > usize::from(u16::MAX) {
        let cause = format!("the ports {} to {last} do not exist", plan.base_port);
        let most = usize::from(u16::MAX) - (n - 1) * PORTS_EACH - GRPC;
        return Err(Failure::usage(cause, format!("choose --base-port from 1 to {most}")));
    }
    check_consensus(&plan.consensus, n)
}

/// Refuses a plug-in that is not there, or that needs more validators.
pub fn check_consensus(name: &str, n: usize) -> Result<(), Failure> {
    let Some(plugin) = consensus::plugin(name) else {
        let known: Vec<&str> = consensus::PLUGINS.iter().map(|row| row.name).collect();
        let cause = format!("no consensus plug-in is called {name:?}");
        return Err(Failure::usage(cause, format!("choose one of {}", known.join(", "))));
    };
    if n < plugin.replicas_min {
        let least = plugin.replicas_min;
        let cause = format!("consensus {name} needs {least} validators, {n} were asked for");
        let fix = format!("choose --validators {least} or more, or --consensus noops");
        return Err(Failure::usage(cause, fix));
    }
    Ok(())
}

fn consortium_failure(error: &ConsortiumError) -> Failure {
    let exit = match error {
        ConsortiumError::Spec { .. } | ConsortiumError::Folder(_) => Exit::Usage,
        _ => Exit::Internal,
    };
    let mut failure = Failure::of(exit, error, "choose another folder with --out");
    if let ConsortiumError::Folder(inner) = error {
        // The folder's own words say more than "cannot write".
        failure = Failure::of(exit, inner, &failure.fix);
    }
    failure
}

fn config(folder: &Path, i: usize, validators: &[&Member], addresses: &[Addresses]) -> Config {
    let peers = validators.iter().zip(addresses).enumerate().filter(|(other, _)| *other != i);
    let peers = peers.map(|(_, (member, at))| PeerSection {
        organisation: member.organisation.clone(),
        name: member.name.clone(),
        address: at.peers.clone(),
    });
    let identity = &validators[i].folder;
    let identity = identity.strip_prefix(folder).unwrap_or(identity).to_owned();
    let (data, genesis) = (PathBuf::from("data"), PathBuf::from("../genesis.bin"));
    let at = &addresses[i];
    Config {
        node: NodeSection { role: NodeRole::Validator, data, identity, genesis },
        network: NetworkSection { listen: at.peers.clone(), peers: peers.collect() },
        api: ApiSection {
            rest: at.rest.clone(),
            rest_plain: at.rest_plain.clone(),
            grpc: at.grpc.clone(),
            ..ApiSection::default()
        },
        signer: SignerSection::default(),
        crypto: CryptoSection::default(),
        consensus: ConsensusSection::default(),
        storage: StorageSection::default(),
        host: HostSection::default(),
        log: LogSection::default(),
    }
}

/// Reads the key cards and puts their keys into the description of the network.
fn read_cards(plan: &Plan, spec: &mut Spec) -> Result<BTreeMap<String, KeyCard>, Failure> {
    let (mut cards, mut known) = (BTreeMap::new(), HashSet::new());
    for (organisation, path) in &plan.cards {
        let (card, public) = member::card(path, &Crypto::portable())?;
        let organisations = spec.organisations.iter_mut().filter(|o| o.name == *organisation);
        let members = organisations.flat_map(|o| &mut o.members);
        let Some(member) = members.into_iter().find(|m| m.role == Role::Validator) else {
            let cause = format!("no organisation of the network is called {organisation:?}");
            return Err(Failure::usage(cause, "write --validator-key org1=CARD"));
        };
        if !known.insert(public.clone()) {
            let cause = format!("the key of {} is another validator's already", path.display());
            return Err(Failure::usage(cause, "make each validator a key of its own"));
        }
        member.key = Some(public);
        cards.insert(organisation.clone(), card);
    }
    Ok(cards)
}

/// Writes the configuration of a validator's signer; moves the key there, or names its token.
fn hand_over(
    folder: &Path,
    validator: &Member,
    card: Option<&KeyCard>,
) -> Result<SignerSection, Failure> {
    let home = folder.join(SIGNER);
    msp::make_folder(&home)
        .map_err(|error| Failure::of(Exit::Internal, &error, "check disk space and permissions"))?;
    let (key, token) = match card {
        Some(card) => (card.key.clone(), card.token.clone()),
        None => {
            let file = Path::new(SIGNER).join("validator.pem");
            let moved = std::fs::rename(validator.folder.join("key.pem"), folder.join(&file));
            moved.map_err(|error| {
                let cause =
                    format!("cannot move the validator's key to {}: {error}", home.display());
                Failure::new(Exit::Internal, cause, "check disk space and permissions")
            })?;
            (KeySection::in_file(file), Vec::new())
        }
    };
    let config = SignerConfig {
        signer: ProcessSection::new(Path::new(SIGNER)),
        validator: vec![ValidatorSection::new(
            format!("{}/{}", validator.organisation, validator.name),
            PathBuf::from("../genesis.bin"),
            key,
        )],
        tls: Vec::new(),
        token,
        log: LogSection::default(),
    };
    write(&folder.join("signer.toml"), &config.to_toml())?;
    let (mode, socket) = (SignerMode::Process, config.signer.socket);
    Ok(SignerSection { mode, socket, ..SignerSection::default() })
}

/// A profile that prefers the node `own`; `prefix` leads to its organisation's folder.
fn client(root: &str, prefix: &str, own: usize, addresses: &[Addresses]) -> Profile {
    let (before, after) = addresses.split_at(own);
    let grpc = after.iter().chain(before).map(|at| at.grpc.clone()).collect();
    let of = |role: Role| PathBuf::from(format!("{prefix}{0}/{0}", role.name()));
    Profile {
        genesis: Path::new(root).join("genesis.bin"),
        identity: of(Role::Client),
        admin: Some(of(Role::Admin)),
        grpc,
        rest: Some(addresses[own].rest.clone()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    msp::write_new(path, text.as_bytes(), 0o644)
        .map_err(|error| Failure::of(Exit::Internal, &error, "check disk space and permissions"))
}

/// Folder of the signer beside the node's.
const SIGNER: &str = "signer";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::providers::portable;
    use crate::node::signer::config::TokenSection;

    fn plan(out: &Path, validators: usize) -> Plan {
        Plan {
            out: out.join("net"),
            validators,
            algorithm: Algorithm::Ed25519,
            base_port: 7050,
            name: "test".into(),
            consensus: "pbft".into(),
            host: "127.0.0.1".into(),
            signer: SignerMode::Embedded,
            cards: Vec::new(),
        }
    }

    /// Every written configuration and profile can be read back and points at files that exist.
    #[test]
    fn a_made_network_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(&plan(dir.path(), 4)).unwrap();
        assert_eq!(made.nodes.len(), 4);
        let second = Config::load(&made.nodes[1]).unwrap();
        assert_eq!(second.network.listen, "127.0.0.1:7061");
        assert_eq!(second.network.peers.len(), 3);
        assert!(second.node.genesis.exists() && second.node.identity.join("key.pem").exists());
        for folder in ["", "org2"] {
            let profile = Profile::load(&dir.path().join("net").join(folder)).unwrap();
            assert!(profile.genesis.exists() && profile.identity.join("key.pem").exists());
            assert!(profile.admin.unwrap().join("key.pem").exists());
            assert_eq!(profile.grpc.len(), 4);
        }
    }

    /// With a signer process the key lies with the signer, and both files can be read back.
    #[test]
    fn keys_move_to_the_signer() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(&Plan { signer: SignerMode::Process, ..plan(dir.path(), 1) }).unwrap();
        let config = Config::load(&made.nodes[0]).unwrap();
        assert!(!config.node.identity.join("key.pem").exists());
        let signer = SignerConfig::load(&made.nodes[0].with_file_name("signer.toml")).unwrap();
        assert_eq!(signer.signer.socket, config.signer.socket);
        let file = &signer.validator[0].key.file;
        assert!(file.exists() && signer.validator[0].genesis.exists());
    }

    /// What cannot work is refused before a folder is made.
    #[test]
    fn impossible_plans_are_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let good = plan(dir.path(), 4);
        for bad in [
            Plan { validators: 0, ..good.clone() },
            Plan { base_port: 65_530, ..good.clone() },
            Plan { consensus: "poof".into(), ..good.clone() },
        ] {
            assert_eq!(make(&bad).unwrap_err().exit, Exit::Usage);
            assert!(!bad.out.exists());
        }
    }

    /// One key for two validators is refused before anything is written.
    #[test]
    fn validators_have_keys_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let pkcs8 = (portable::PROVIDER.generate)(Algorithm::Ed25519).unwrap();
        let key = (portable::PROVIDER.load)(Algorithm::Ed25519, &pkcs8).unwrap();
        let place = KeySection::on_token("hsm", "01");
        let token = TokenSection {
            name: "hsm".into(),
            module: "module.so".into(),
            label: "hsm".into(),
            pin: "pin".into(),
            ..TokenSection::default()
        };
        let path = dir.path().join("card.toml");
        KeyCard::new(&*key, place, token).unwrap().store(&path).unwrap();
        let cards = ["org1", "org2"].map(|name| (name.to_owned(), path.clone())).to_vec();
        let plan = Plan { cards, ..plan(dir.path(), 4) };
        let refusal = make(&plan).unwrap_err();
        assert_eq!(refusal.exit, Exit::Usage);
        assert!(refusal.cause.contains("another validator's"), "{refusal}");
        assert!(!plan.out.exists());
    }
}
