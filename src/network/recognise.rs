//! From a peer's TLS certificate to the `Peer` it is: the link between membership and network.
//!
//! Validators and observers with a TLS certificate that is valid now and not revoked are peers;
//! everybody else is refused here and uses the client interfaces. A validator gets its seat from the
//! replica set; one without a seat (removed, or of a later epoch) is treated as an observer: it may
//! follow.

use std::sync::Arc;

use crate::host::clock::now_ms;
use crate::membership::directory::Directory;
use crate::membership::identity::Purpose;
use crate::membership::identity::Role;
use crate::network::Peer;
use crate::types::replica_set::ReplicaSet;

/// Says who a leaf certificate (DER) belongs to, or why it is refused here. Must refuse a
/// certificate that claims another organisation than the root that vouches for it.
pub type Identify = Arc<dyn Fn(&[u8]) -> Result<Peer, String> + Send + Sync>;

/// Recognises the peers of a network. `replicas` gives the replica set of the moment.
pub fn peers(
    directory: Arc<Directory>,
    replicas: impl Fn() -> Arc<ReplicaSet> + Send + Sync + 'static,
) -> Identify {
    Arc::new(move |der| peer(&directory, &replicas(), der))
}

fn peer(directory: &Directory, replicas: &ReplicaSet, der: &[u8]) -> Result<Peer, String> {
    let identity = directory.identify_shown(der).map_err(|error| error.to_string())?;
    identity.check_purpose(Purpose::Tls).map_err(|error| error.to_string())?;
    directory.check_standing(&identity, now_ms()).map_err(|error| error.to_string())?;
    let (organisation, name) = (identity.organisation.clone(), identity.name.clone());
    let replica = match identity.role {
        Role::Validator => replicas.find(&organisation, &name),
        Role::Observer => None,
        Role::Client | Role::Auditor | Role::Admin => {
            let role = identity.role.name();
            return Err(format!("{} is a {role}: use the client interfaces", identity.uri()));
        }
    };
    Ok(Peer { organisation, name, replica })
}
