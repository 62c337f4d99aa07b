//! Compiles every `proto/*.proto` with a pure-Rust compiler (protox), so that no `protoc` is
//! needed. Does nothing without the feature `grpc`. Bytes fields become `bytes::Bytes`: decoding
//! shares the receive buffer. Tells the program how it was built (`cli/bench/machine.rs`).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    let setting = |name: &str| std::env::var(name).unwrap_or_default();
    println!("cargo::rustc-env=OBELISK_OPT_LEVEL={}", setting("OPT_LEVEL"));
    println!("cargo::rustc-env=OBELISK_PROFILE={}", setting("PROFILE"));
    compile()
}

#[cfg(feature = "grpc")]
fn compile() -> Result<(), Box<dyn std::error::Error>> {
    use std::path::PathBuf;

    // The peer protocol has a codec of its own that counts before it takes memory.
    let peer = PathBuf::from("proto/peer.proto");
    let mut services = Vec::new();
    for entry in std::fs::read_dir("proto")? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") && path != peer {
            services.push(path);
        }
    }
    services.sort();
    let builder = || tonic_prost_build::configure().bytes(".").build_transport(false);
    builder()
        .codec_path("crate::network::frame::FrameCodec")
        .compile_fds(protox::compile([peer], ["proto"])?)?;
    if !services.is_empty() {
        builder().compile_fds(protox::compile(services, ["proto"])?)?;
    }
    Ok(())
}

#[cfg(not(feature = "grpc"))]
fn compile() -> Result<(), Box<dyn std::error::Error>> {
    Ok(())
}
