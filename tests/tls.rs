//! Networks whose TLS runs on another library than the default, and on two at once.

use obelisk::client::invocation::Invocation;
use obelisk::types::receipt::Status;
use obelisk::types::signature::Algorithm;

use crate::cluster::Cluster;

/// Four validators on OpenSSL's TLS commit, answer clients on the default one, and go on with one
/// of them on aws-lc; their choice of providers is kept for the next start, and their metrics hold
/// the times of the signer in their own process.
#[test]
fn networks_on_openssl_and_on_both_libraries_commit() {
    let on = |name: &str| format!("tls = \"{name}\"\n");
    let mut cluster =
        Cluster::start_with(4, Algorithm::EcdsaP256, "pbft", &[], |_, _| on("openssl"));
    let harmless = || Invocation::new("configure", "show");
    let located = cluster.invoke(0, &harmless());
    assert_eq!(located.receipt.status, Status::Ok);
    cluster.converge(located.height);
    let profile = cluster.config(3).node.data.join("crypto-profile.toml");
    let kept = std::fs::read_to_string(&profile).unwrap();
    assert!(kept.contains("hash sha256 64 B") && kept.contains("verify ed25519 1"), "{kept}");
    cluster.stop_node(3);
    cluster.more = on("aws-lc");
    cluster.start_node(3);
    let located = cluster.invoke(3, &harmless());
    assert_eq!(located.receipt.status, Status::Ok);
    cluster.converge(located.height);
    let metrics = cluster.node(3).handle().render_metrics();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is missing in {metrics}")).trim().parse().unwrap()
    };
    assert!(value("obelisk_signer_seconds_count{lane=\"consensus\"}") > 0.0);
    assert_eq!(value("obelisk_signer_failures_total{lane=\"consensus\"}"), 0.0);
    assert_eq!(value("obelisk_votes_waiting"), 0.0);
    let pair = "{provider=\"openssl\",for=\"verify\",with=\"p256\"}";
    assert_eq!(value(&format!("obelisk_crypto_quarantined{pair}")), 0.0);
}

/// A library that the build does not have refuses the start, with those it has.
#[test]
fn an_unknown_library_refuses_the_start() {
    let started = std::panic::catch_unwind(|| {
        Cluster::start_with(1, Algorithm::EcdsaP256, "noops", &[], |_, _| {
            "tls = \"gnutls\"\n".to_owned()
        })
    });
    let panic = started.err().expect("it does not start");
    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.contains("gnutls") && text.contains("aws-lc, openssl"), "{text}");
}
