//! A client in one page: signs a call with a member's key, sends it to one node, waits for its
//! receipt, and believes nothing that the network's genesis document does not prove.
//!
//! ```text
//! cargo run --release --example invoke -- NETWORK IDENTITY ADDRESS CONTRACT FUNCTION [ARGUMENT ...]
//! cargo run --release --example invoke -- net net/org1/client/client 127.0.0.1:7053 asset balance bob
//! ```
//!
//! NETWORK is the folder of the genesis document, IDENTITY a member's folder, ADDRESS a node's gRPC.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use obelisk::client::connection::Client;
use obelisk::client::identity::ClientIdentity;
use obelisk::client::invocation::Invocation;
use obelisk::client::trust::Network;
use obelisk::crypto::routing::Crypto;
use obelisk::membership::consortium::read_genesis;
use obelisk::membership::msp::Msp;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [network, identity, address, contract, function, rest @ ..] = &arguments[..] else {
        return Err(
            "usage: invoke NETWORK IDENTITY ADDRESS CONTRACT FUNCTION [ARGUMENT ...]".into()
        );
    };
    let crypto = Arc::new(Crypto::portable());
    let genesis = Arc::new(read_genesis(&Path::new(network).join("genesis.bin"))?);
    let network = Network::new(genesis, crypto.clone())?;
    let msp = Msp::load(Path::new(identity))?;
    let who = ClientIdentity::from_pair(&msp.enrolment, &crypto)?;
    let client = Client::connect(address, &network, msp.tls.as_ref()).await?;

    let call = rest.iter().fold(Invocation::new(contract, function), |call, one| call.arg(one));
    let located = client.invoke(&who, &call, Duration::from_secs(30)).await?;
    println!("transaction {} in block {}", located.receipt.tx, located.height);
    println!("receipt     {:?}", located.receipt.status);

    // The answer above is one node's word. The proof is 2f+1 validators'.
    let proven = client.prove_transaction(located.receipt.tx).await?;
    let signers = proven.proof.certificate.signatures.len();
    println!("proven      block {} signed by {signers} validators", proven.hash);
    Ok(())
}
