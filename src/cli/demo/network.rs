//! The demo's consortium: the parties of a letter of credit as organisations, each with a client
//! and an admin, the first of them with a validator too.
//!
//! Files have the shape of production: a genesis document, one identity folder per member, one
//! `node.toml` per validator. Validator number i (from 0) listens on base port + 10 i: REST over
//! TLS on +0, peers on +1, gRPC on +3, as with `obelisk network create`. REST without TLS is open
//! to this machine on +2, so that a first question needs no certificate.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::cli::demo::place;
use crate::cli::demo::place::Marker;
use crate::cli::demo::place::Place;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::network::ports::GRPC;
use crate::cli::network::ports::HOST;
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
use crate::membership::consortium::GENESIS_FILE;
use crate::membership::consortium::MemberSpec;
use crate::membership::consortium::OrganisationSpec;
use crate::membership::consortium::Spec;
use crate::membership::identity::Role;
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
use crate::node::config::SignerSection;
use crate::node::config::StorageSection;
use crate::types::limits;
use crate::types::signature::Algorithm;

/// The parties of the story, in the order in which they get a validator.
pub const PARTIES: [&str; 5] = ["issuing-bank", "advising-bank", "importer", "exporter", "carrier"];

/// The organisations of a demo with this many validators: the parties, and further banks where
/// there are more validators than parties.
pub fn organisations(validators: usize) -> Vec<String> {
    let further = (PARTIES.len()..validators).map(|i| format!("bank-{}", i + 1));
    PARTIES.iter().map(|name| (*name).to_owned()).chain(further).collect()
}

/// A number of validators that can work.
pub fn check_validators(validators: usize) -> Result<(), Failure> {
    if (1..=VALIDATORS_MAX).contains(&validators) {
        return Ok(());
    }
    let cause = format!("{validators} validators are not possible on one machine");
    let fix = format!("choose --validators from 1 to {VALIDATORS_MAX}; 4 survive one fault");
    Err(Failure::usage(cause, fix))
}

/// Makes keys, certificates, genesis document and configurations.
pub fn make(place: &Place) -> Result<(), Failure> {
    let validators = place.marker.validators;
    let least = consensus::plugin("pbft").map_or(usize::MAX, |row| row.replicas_min);
    let mut spec = Spec::local("demo", 0, Algorithm::EcdsaP256, now_ms());
    spec.consensus = if validators >= least { "pbft" } else { "noops" }.to_owned();
    let organisations = place.marker.organisations.iter().enumerate();
    spec.organisations =
        organisations.map(|(i, name)| organisation(name, i < validators)).collect();
    Consortium::make(&place.folder, &spec, &Crypto::portable()).map_err(|error| {
        Failure::of(Exit::Internal, &error, "run `obelisk demo --reset`, or use --data DIR")
    })?;
    write_configurations(place)
}

/// Writes every configuration and profile for the marker's ports.
pub fn write_configurations(place: &Place) -> Result<(), Failure> {
    let Marker { organisations, validators, .. } = &place.marker;
    for i in 0..*validators {
        write(&place.file(i, NODE_FILE), &config(&place.marker, i).to_toml())?;
    }
    for (i, name) in organisations.iter().enumerate() {
        let own = if i < *validators { i } else { 0 };
        let path = place.folder.join(name).join(profile::FILE);
        write(&path, &client(&place.marker, "..", "", own).to_toml())?;
    }
    let prefix = format!("{}/", PARTIES[IMPORTER]);
    let path = place.folder.join(profile::FILE);
    write(&path, &client(&place.marker, "", &prefix, 0).to_toml())
}

/// Address of validator number `i`, from 0, for REST without TLS.
pub fn rest_plain(marker: &Marker, i: usize) -> String {
    address(marker, i, REST_PLAIN)
}

/// gRPC address of validator number `i`, from 0.
pub fn grpc(marker: &Marker, i: usize) -> String {
    address(marker, i, GRPC)
}

/// Folder of a member below the demo's folder.
pub fn member(place: &Place, organisation: &str, role: Role) -> PathBuf {
    place.folder.join(organisation).join(role.name()).join(role.name())
}

fn organisation(name: &str, with_validator: bool) -> OrganisationSpec {
    let roles = [Role::Validator, Role::Client, Role::Admin];
    let roles = roles.into_iter().filter(|role| with_validator || *role != Role::Validator);
    let members = roles.map(|role| MemberSpec {
        name: role.name().to_owned(),
        role,
        hosts: ["localhost", HOST].map(str::to_owned).to_vec(),
        attributes: BTreeMap::new(),
        key: None,
    });
    OrganisationSpec { name: name.to_owned(), members: members.collect() }
}

fn config(marker: &Marker, i: usize) -> Config {
    let others = (0..marker.validators).filter(|other| *other != i);
    let peers = others.map(|other| PeerSection {
        organisation: marker.organisations[other].clone(),
        name: Role::Validator.name().to_owned(),
        address: address(marker, other, PEERS),
    });
    Config {
        node: NodeSection {
            role: NodeRole::Validator,
            data: PathBuf::from("data"),
            identity: folder_of("", Role::Validator),
            genesis: Path::new("..").join(GENESIS_FILE),
        },
        network: NetworkSection { listen: address(marker, i, PEERS), peers: peers.collect() },
        api: ApiSection {
            rest: address(marker, i, REST),
            rest_plain: rest_plain(marker, i),
            grpc: grpc(marker, i),
            open: true,
        },
        signer: SignerSection::default(),
        crypto: CryptoSection::default(),
        consensus: ConsensusSection::default(),
        storage: StorageSection::default(),
        host: HostSection { nodes: marker.validators, ..HostSection::default() },
        log: LogSection::default(),
    }
}

/// A profile that prefers validator `own`; `prefix` leads to the organisation's folder.
fn client(marker: &Marker, root: &str, prefix: &str, own: usize) -> Profile {
    let n = marker.validators;
    Profile {
        genesis: Path::new(root).join(GENESIS_FILE),
        identity: folder_of(prefix, Role::Client),
        admin: Some(folder_of(prefix, Role::Admin)),
        grpc: (0..n).map(|i| grpc(marker, (own + i) % n)).collect(),
        rest: Some(address(marker, own, REST)),
    }
}

fn folder_of(prefix: &str, role: Role) -> PathBuf {
    PathBuf::from(format!("{prefix}{0}/{0}", role.name()))
}

fn address(marker: &Marker, i: usize, offset: usize) -> String {
    format!("{HOST}:{}", usize::from(marker.base_port) + i * PORTS_EACH + offset)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| place::unreadable("write", path, &error))
}

/// Name of a validator's configuration in its organisation's folder.
pub const NODE_FILE: &str = "node.toml";
/// Place of the importer among `PARTIES`.
const IMPORTER: usize = 2;
/// Each validator is a process with a store; more than this on one machine shows nothing new.
const VALIDATORS_MAX: usize = if limits::REPLICAS_MAX < 16 { limits::REPLICAS_MAX } else { 16 };

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path, validators: usize) -> Place {
        let organisations = organisations(validators);
        let marker = Marker { format: place::FORMAT, organisations, validators, base_port: 7050 };
        Place::create(folder, marker).unwrap()
    }

    /// All parties are there with any number of validators; every file written can be read back.
    #[test]
    fn made_networks_can_be_read_back() {
        for validators in [1, 4, 6] {
            let dir = tempfile::tempdir().unwrap();
            let place = place(dir.path(), validators);
            make(&place).unwrap();
            for i in 0..validators {
                let config = Config::load(&place.file(i, NODE_FILE)).unwrap();
                assert_eq!(config.network.peers.len(), validators - 1);
                assert!(config.node.identity.join("key.pem").exists());
                assert!(config.node.genesis.exists());
            }
            for party in PARTIES {
                assert!(member(&place, party, Role::Client).join("key.pem").exists());
                let profile = Profile::load(&place.folder.join(party)).unwrap();
                assert!(profile.identity.join("key.pem").exists());
                assert_eq!(profile.grpc.len(), validators);
            }
            let profile = Profile::load(dir.path()).unwrap();
            assert!(profile.genesis.exists() && profile.identity.join("key.pem").exists());
        }
    }

    /// Numbers of validators that cannot work are refused.
    #[test]
    fn impossible_numbers_of_validators_are_refused() {
        assert!(check_validators(0).is_err() && check_validators(17).is_err());
        assert!(check_validators(1).is_ok() && check_validators(16).is_ok());
    }
}
