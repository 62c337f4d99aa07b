#!/bin/sh
# Builds every sample contract into contracts/wasm/ and records what it was built from.
#
#   contracts/build.sh [OUT]     OUT: another folder than contracts/wasm
#
# Needs the target: rustup target add wasm32-unknown-unknown. The same sources and the same rustc
# give the same bytes on any machine; another rustc gives other bytes, which is no fault but a new
# package digest: rebuild and commit all of them together.
set -eu
cd "$(dirname "$0")"
out=${1:-wasm}
target=${CARGO_TARGET_DIR:-target}/contracts-wasm
mkdir -p "$out"

# Settings of the caller's own builds must not reach the modules.
unset CARGO_ENCODED_RUSTFLAGS
for name in $(env | sed -n -e 's/^\(CARGO_PROFILE_[A-Z0-9_]*\)=.*/\1/p' \
    -e 's/^\(CARGO_BUILD_[A-Z0-9_]*\)=.*/\1/p'); do
    unset "$name"
done
# 32 KiB of stack in linear memory: it lies first, so an overflow traps instead of spoiling data.
RUSTFLAGS='-C link-arg=-zstack-size=32768' CARGO_TARGET_DIR="$target" \
    cargo build --locked --quiet --release --target wasm32-unknown-unknown

# The digest of all files that reach the code: not the tests, not the mock.
sources() {
    find Cargo.toml Cargo.lock sdk/Cargo.toml sdk/src "$1/Cargo.toml" "$1/src" -type f \
        ! -name tests.rs ! -name mock.rs | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-64
}

{
    echo "# sources, module, name; written by contracts/build.sh"
    echo "# $(rustc --version)"
    for contract in asset bond letter-of-credit provenance; do
        file=$(echo "$contract" | tr - _).wasm
        cat "$target/wasm32-unknown-unknown/release/$file" >"$out/$contract.wasm"
        module=$(sha256sum "$out/$contract.wasm" | cut -c1-64)
        echo "$(sources "$contract") $module $contract.wasm"
    done
} >"$out/SOURCES.new"
mv "$out/SOURCES.new" "$out/SOURCES"
