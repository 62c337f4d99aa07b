//! The ports of validators that share a machine: validator number i (from 0) has ten from base
//! port + 10 i on, and listens on four of them.

use std::net::TcpListener;

use crate::cli::failure::Exit;
use crate::cli::failure::Failure;

/// A first port from which on all ports of a network are free.
pub fn free_ports(validators: usize, asked: Option<u16>) -> Result<u16, Failure> {
    if let Some(base) = asked {
        return check_ports(base, validators).map(|()| base);
    }
    let step = u16::try_from(validators * PORTS_EACH).unwrap_or(u16::MAX);
    let bases = (0..BASES_MAX).map_while(|i| step.checked_mul(i)?.checked_add(BASE_PORT));
    for base in bases.take_while(|base| *base < PORT_MAX) {
        if check_ports(base, validators).is_ok() {
            return Ok(base);
        }
    }
    let cause = format!("no {} free ports in a row between {BASE_PORT} and {PORT_MAX}", step);
    Err(Failure::new(Exit::Refused, cause, "stop what listens there, or use --base-port PORT"))
}

/// Refuses a first port with a taken port behind it, and says which.
pub fn check_ports(base: u16, validators: usize) -> Result<(), Failure> {
    for i in 0..validators {
        for offset in [REST, PEERS, GRPC, REST_PLAIN] {
            let port = usize::from(base) + i * PORTS_EACH + offset;
            let Some(port) = u16::try_from(port).ok().filter(|port| *port > 0) else {
                let cause = format!("the port {port} does not exist");
                return Err(Failure::usage(cause, "choose a lower --base-port"));
            };
            if let Err(error) = TcpListener::bind((HOST, port)) {
                let cause = format!("{HOST}:{port} cannot be listened on: {error}");
                let fix = "stop what listens there, or choose another --base-port";
                return Err(Failure::new(Exit::Refused, cause, fix));
            }
        }
    }
    Ok(())
}

/// The address of networks whose validators share a machine.
pub const HOST: &str = "127.0.0.1";
/// Ports of one validator.
pub const PORTS_EACH: usize = 10;
/// REST over TLS, behind a validator's first port.
pub const REST: usize = 0;
/// Peers.
pub const PEERS: usize = 1;
/// REST without TLS, for this machine alone.
pub const REST_PLAIN: usize = 2;
/// gRPC.
pub const GRPC: usize = 3;
/// The default port of REST.
const BASE_PORT: u16 = 7050;
/// Below the range from which systems give outgoing connections their ports.
const PORT_MAX: u16 = 30_000;
const BASES_MAX: u16 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A taken port is named, and the search goes on behind it.
    #[test]
    fn taken_ports_are_named_and_avoided() {
        let base = free_ports(4, None).unwrap();
        let _taken = TcpListener::bind((HOST, base + 11)).unwrap();
        let failure = free_ports(4, Some(base)).unwrap_err();
        assert!(failure.cause.contains(&(base + 11).to_string()), "{failure}");
        assert_ne!(free_ports(4, None).unwrap(), base);
        assert!(check_ports(65_530, 4).unwrap_err().cause.contains("does not exist"));
    }
}
