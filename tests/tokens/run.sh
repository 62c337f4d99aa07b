#!/bin/sh
# One PKCS#11 token from nothing to a validator that commits, by the commands an operator types.
# Called by `./dev tokens NAME...`; NAME: softhsm kryoptic p11-kit tpm opencryptoki.
#
#   keygen (safe attributes) -> audit -> 16 texts -> the token's process restarted -> found again
#   -> 16 texts -> bench -> network, signer, node -> a transaction commits
#
# For P-256 and for Ed25519. What a token or its packages cannot do is said, and is no failure; what
# it says it can do and does not, is one. Everything lies in a directory of its own, removed at the end.
set -eu

name="${1:?name a token: softhsm kryoptic p11-kit tpm opencryptoki}"
obelisk="${OBELISK:?the binary to try}"
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
started=''
sessions=4

say() { printf '%s: %s\n' "$name" "$*"; }
skip() { say "SKIPPED: $*"; exit 0; }
fail() { say "FAILED: $*"; exit 1; }

finish() {
    for pid in $started; do kill "$pid" 2>/dev/null || true; done
    # opencryptoki's daemon leaves the shell's jobs; it is asked by its own file.
    if [ -n "${slotd:-}" ]; then kill "$slotd" 2>/dev/null || true; fi
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

# first FILE...: the first that exists.
first() {
    for file in "$@"; do
        if [ -e "$file" ]; then printf '%s' "$file"; return 0; fi
    done
    return 1
}

# within SECONDS COMMAND...: repeats the command until it succeeds.
within() {
    left=$(($1 * 10))
    shift
    until "$@" >"$work/last" 2>&1; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then cat "$work/last"; return 1; fi
        sleep 0.1
    done
}

write_pin() {
    pin="$work/pin"
    (umask 277 && printf '%s\n' "$1" >"$pin")
}

# ---- tokens: each sets module, label and pin; restart_token restarts what runs ----

restart_token() { say 'no process of its own; each command loads the library anew'; }

softhsm() {
    command -v softhsm2-util >/dev/null || skip 'softhsm2-util is missing: package softhsm2'
    module="$(first /usr/lib/softhsm/libsofthsm2.so /usr/lib64/softhsm/libsofthsm2.so \
        /usr/lib64/pkcs11/libsofthsm2.so /usr/lib64/libsofthsm2.so)" || skip 'no libsofthsm2.so'
    label=obelisk
    write_pin 1234
    mkdir "$work/tokens"
    printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' \
        "$work/tokens" >"$work/softhsm2.conf"
    export SOFTHSM2_CONF="$work/softhsm2.conf"
    softhsm2-util --init-token --free --label obelisk --pin 1234 --so-pin 5678 >/dev/null
}

kryoptic() {
    command -v pkcs11-tool >/dev/null || skip 'pkcs11-tool is missing: package opensc'
    target="${KRYOPTIC_TARGET:-$here/kryoptic/target}"
    module="$target/release/libkryoptic_token.so"
    if [ ! -e "$module" ]; then
        say 'building it, once: some minutes'
        (cd "$here/kryoptic" && env CARGO_TARGET_DIR="$target" cargo build --release --locked --quiet) ||
            skip 'kryoptic does not build here: it needs OpenSSL 3 and libclang'
    fi
    label=obelisk
    write_pin 12345678
    printf '[[slots]]\nslot = 1\ndbtype = "sqlite"\ndbargs = "%s/k.sql"\n' "$work" >"$work/k.toml"
    export KRYOPTIC_CONF="$work/k.toml"
    pkcs11-tool --module "$module" --slot 1 --init-token --label obelisk --so-pin 87654321 >/dev/null 2>&1
    pkcs11-tool --module "$module" --slot 1 --login --login-type so --so-pin 87654321 \
        --init-pin --new-pin 12345678 >/dev/null 2>&1
}

# A token behind a socket, as a network HSM is: its server can go and come.
p11_kit() {
    command -v p11-kit >/dev/null || skip 'p11-kit is missing: packages p11-kit, p11-kit-modules'
    softhsm
    behind="$module"
    module="$(first /usr/lib/*/pkcs11/p11-kit-client.so /usr/lib64/pkcs11/p11-kit-client.so)" ||
        skip 'p11-kit-client.so is missing: package p11-kit-modules'
    start_server
    export P11_KIT_SERVER_ADDRESS="unix:path=$work/socket"
    restart_token() {
        kill "$server"
        wait "$server" 2>/dev/null || true
        rm -f "$work/socket"
        start_server
        say 'its server was killed and started again'
    }
}

start_server() {
    p11-kit server --foreground --name "$work/socket" --provider "$behind" 'pkcs11:token=obelisk' \
        >"$work/server.log" 2>&1 &
    server=$!
    started="$started $server"
    within 10 test -S "$work/socket" || fail 'the server does not start'
}

# A TPM in software, naturally slow, with few sessions.
tpm() {
    for tool in swtpm swtpm_setup tpm2-abrmd tpm2_ptool dbus-daemon; do
        command -v $tool >/dev/null ||
            skip "$tool is missing: packages swtpm, swtpm-tools, tpm2-abrmd, libtpm2-pkcs11-tools, dbus"
    done
    module="$(first /usr/lib/*/pkcs11/libtpm2_pkcs11.so /usr/lib/*/libtpm2_pkcs11.so.1 \
        /usr/lib64/pkcs11/libtpm2_pkcs11.so)" || skip 'no libtpm2_pkcs11.so: package libtpm2-pkcs11-1'
    label=obelisk
    write_pin 12345678
    mkdir "$work/state" "$work/store"
    swtpm_setup --tpm2 --tpmstate "$work/state" >"$work/setup.log" 2>&1 || fail 'swtpm_setup'
    port=$((20000 + $$ % 20000))
    dbus-daemon --session --nofork --address="unix:path=$work/bus" >"$work/bus.log" 2>&1 &
    started="$started $!"
    export DBUS_SESSION_BUS_ADDRESS="unix:path=$work/bus"
    within 10 test -S "$work/bus" || fail 'dbus-daemon does not start'
    start_tpm
    export TPM2TOOLS_TCTI=tabrmd:bus_type=session TPM2_PKCS11_TCTI=tabrmd:bus_type=session
    export TPM2_PKCS11_STORE="$work/store"
    within 20 tpm2_ptool init --path "$work/store" || fail 'tpm2_ptool init'
    tpm2_ptool addtoken --pid=1 --label=obelisk --userpin=12345678 --sopin=5678 \
        --path "$work/store" >/dev/null || fail 'tpm2_ptool addtoken'
    restart_token() {
        kill "$broker" "$chip"
        wait "$broker" "$chip" 2>/dev/null || true
        start_tpm
        say 'the TPM and its resource manager were killed and started again'
    }
}

start_tpm() {
    swtpm socket --tpm2 --tpmstate "dir=$work/state" --server "type=tcp,port=$port" \
        --ctrl "type=tcp,port=$((port + 1))" --flags not-need-init,startup-clear \
        >>"$work/swtpm.log" 2>&1 &
    chip=$!
    started="$started $chip"
    sleep 1
    tpm2-abrmd --allow-root --session "--tcti=swtpm:host=127.0.0.1,port=$port" \
        >>"$work/abrmd.log" 2>&1 &
    broker=$!
    started="$started $broker"
    sleep 1
}

# Debian 13 has 3.23, which signs with P-256. Debian 12 has 3.8.1, which signs with nothing that is used
# here; the point is that this is said. Its tokens belong to the machine: only one that nobody made is
# touched, and it stays. Where `localhost` has no address, 3.23 closes descriptor 0 (its TPM token does), so
# that pkcsconf waits for its label for ever: hence the limit.
opencryptoki() {
    command -v pkcsslotd >/dev/null || skip 'pkcsslotd is missing: package opencryptoki'
    [ "$(id -u)" = 0 ] || skip 'its daemon needs root'
    module="$(first /usr/lib/*/opencryptoki/libopencryptoki.so /usr/lib/opencryptoki/libopencryptoki.so \
        /usr/lib/*/pkcs11/libopencryptoki.so /usr/lib64/opencryptoki/libopencryptoki.so)" ||
        skip 'no libopencryptoki.so'
    if ! pgrep -x pkcsslotd >/dev/null; then
        pkcsslotd || skip 'pkcsslotd does not start'
        slotd="$(pgrep -x pkcsslotd)"
    fi
    label=obelisk-trial
    write_pin 01234567
    within 10 pkcsconf -t -c 3 || skip 'it has no slot 3'
    if grep -q 'Label: obelisk-trial' "$work/last"; then return 0; fi
    if grep -q 'TOKEN_INITIALIZED' "$work/last"; then skip 'its token in slot 3 is somebody'"'"'s'; fi
    printf 'obelisk-trial\n' | timeout 60 pkcsconf -I -c 3 -S 87654321 >/dev/null || skip 'its software token cannot be made'
    pkcsconf -P -c 3 -S 87654321 -n 76543210 >/dev/null
    pkcsconf -u -c 3 -S 76543210 -n 12345678 >/dev/null
    pkcsconf -p -c 3 -U 12345678 -n 01234567 >/dev/null
}

# ---- conformance ----

crypto() {
    command="$1"
    shift
    "$obelisk" crypto "$command" --module "$module" --token "$label" --pin "$pin" "$@"
}

# One algorithm; prints what happened, remembers the card of the first that works.
conform() {
    algorithm="$1" id="$2"
    if ! crypto keygen --id "$id" --algorithm "$algorithm" --out "$work/$algorithm.card" \
        >"$work/out" 2>&1; then
        if grep -q 'does not offer' "$work/out"; then
            say "$algorithm: not offered. $(grep 'does not offer' "$work/out")"
            return 0
        fi
        cat "$work/out"
        fail "keygen $algorithm"
    fi
    crypto audit >"$work/out" 2>&1 || { cat "$work/out"; fail "audit after keygen $algorithm"; }
    crypto test --id "$id" >"$work/out" 2>&1 || { cat "$work/out"; fail "test $algorithm"; }
    if crypto keygen --id "$id" --algorithm "$algorithm" --out "$work/twice" >"$work/out" 2>&1; then
        fail "a second key with the id $id was made"
    fi
    grep -q 'already' "$work/out" || { cat "$work/out"; fail 'a second key: another reason'; }
    restart_token
    within 20 crypto test --id "$id" || fail "test $algorithm after the restart"
    say "$algorithm: key made and safe, 16 texts, found again after the restart, 16 texts"
    crypto bench --id "$id" --signatures "${SIGNATURES:-200}"
    card="${card:-$work/$algorithm.card}"
}

# A network of one whose key is on the token: it commits, and does so again after a restart.
commit() {
    (umask 077 && mkdir "$work/home")
    "$obelisk" network create --out "$work/home/net" --validators 1 \
        --base-port $((10000 + $$ % 10000)) --validator-key "org1=$card" >/dev/null
    "$obelisk" signer --config "$work/home/net/org1/signer.toml" >"$work/signer.log" 2>&1 &
    started="$started $!"
    "$obelisk" node --config "$work/home/net/org1/node.toml" >"$work/node.log" 2>&1 &
    started="$started $!"
    invoke() { "$obelisk" chaincode invoke configure show --network "$work/home/net"; }
    within 60 invoke || { tail -5 "$work/signer.log" "$work/node.log"; fail 'nothing commits'; }
    restart_token
    within 60 invoke || {
        tail -5 "$work/signer.log" "$work/node.log"
        fail 'nothing commits after the restart'
    }
    say 'a validator with its key on this token commits, before and after the restart'
    "$obelisk" signer status --config "$work/home/net/org1/signer.toml" | tail -1
}

case "$name" in
softhsm | kryoptic | tpm | opencryptoki) "$name" ;;
p11-kit) p11_kit ;;
*) fail 'unknown; one of softhsm kryoptic p11-kit tpm opencryptoki' ;;
esac

say "module $module"
"$obelisk" crypto list --module "$module"
card=''
conform p256 01
conform ed25519 02
if [ -n "$card" ]; then commit; else say 'it cannot hold a validator'"'"'s key'; fi
say 'done'
