#!/bin/sh
# What a slow token costs: the same load on four validators with keys in files and with keys on a
# token, in each mode of signing. Each validator has a signer process and a SoftHSM token of its own,
# slowed down by p11-fault (tests/p11-fault); nothing else differs.
#
#   bench/slow-token.sh [--ms 10] [--sessions 8] [--algorithm ed25519] [--rate N | --in-flight N] [--seconds 10]
#                       [MODE ...]
#
# MODE: software, direct, delegated, strict; default all but direct. Prints the load's report for each.
# All keys, clients' too, are of one algorithm, so that the modes differ by where the key is.
# Needs: softhsm2-util, a built obelisk (OBELISK=path; default target/release/obelisk).
set -eu
cd "$(dirname "$0")/.."
ms=10 sessions=8 algorithm=ed25519 load='--in-flight 4096' seconds=10 modes='' port=${PORT:-19050}
while [ $# -gt 0 ]; do
    case "$1" in
    --ms) ms=$2 && shift ;;
    --sessions) sessions=$2 && shift ;;
    --algorithm) algorithm=$2 && shift ;;
    --rate | --in-flight) load="$1 $2" && shift ;;
    --seconds) seconds=$2 && shift ;;
    software | direct | delegated | strict) modes="$modes $1" ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
    shift
done
obelisk=${OBELISK:-${CARGO_TARGET_DIR:-target}/release/obelisk}
home=$(mktemp -d)
pids=''
stop() {
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill $pids 2>/dev/null || true
    # shellcheck disable=SC2086
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    pids=''
}
trap 'stop; rm -rf "$home"' EXIT INT TERM

softhsm=''
for module in /usr/lib/softhsm /usr/lib64/softhsm /usr/lib64/pkcs11 /usr/lib64; do
    [ ! -e "$module/libsofthsm2.so" ] || softhsm=$module/libsofthsm2.so
done
[ -n "$softhsm" ] || { echo 'SoftHSM is not installed; ./dev setup installs it' >&2 && exit 1; }
cargo build --quiet --release --locked --manifest-path tests/p11-fault/Cargo.toml --target-dir "$home/fault"

# token N: a token of validator N with its key; the key card's path.
token() {
    at=$home/token-$1
    mkdir -p "$at/tokens"
    printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$at/tokens" >"$at/softhsm2.conf"
    export SOFTHSM2_CONF="$at/softhsm2.conf"
    softhsm2-util --init-token --free --label obelisk --pin 1234 --so-pin 5678 >/dev/null
    (umask 277 && echo 1234 >"$at/pin")
    cp "$home/fault/release/libp11_fault.so" "$at/"
    echo "target $softhsm" >"$at/p11-fault.script"
    "$obelisk" crypto keygen --module "$at/libp11_fault.so" --token obelisk --pin "$at/pin" --id 01 \
        --algorithm "$algorithm" --out "$at/card.toml" >/dev/null
    printf 'target %s\nfault sign do=latency ms=%s\n' "$softhsm" "$ms" >"$at/p11-fault.script"
}

run() {
    net=$home/net-$1
    rm -rf "$net" "$home"/token-*
    case "$1" in
    software) "$obelisk" network create --out "$net" --validators 4 --base-port "$port" --algorithm "$algorithm" \
        --signer process >/dev/null ;;
    *)
        cards=''
        for n in 1 2 3 4; do token "$n" && cards="$cards --validator-key org$n=$home/token-$n/card.toml"; done
        # shellcheck disable=SC2086
        "$obelisk" network create --out "$net" --validators 4 --base-port "$port" --algorithm "$algorithm" \
            $cards >/dev/null
        ;;
    esac
    nodes=''
    for n in 1 2 3 4; do
        config=$net/org$n/signer.toml
        if [ "$1" != software ]; then
            sed -i -e "s/^sessions = .*/sessions = $sessions/" -e "s/^\(genesis = .*\)/mode = \"$1\"\n\1/" "$config"
            grep -q '^sessions' "$config" || sed -i "s/^\[\[token\]\]/&\nsessions = $sessions/" "$config"
        fi
        SOFTHSM2_CONF=$home/token-$n/softhsm2.conf "$obelisk" signer --config "$config" >"$net/signer-$n.log" 2>&1 &
        pids="$pids $!"
        "$obelisk" node --config "$net/org$n/node.toml" >"$net/node-$n.log" 2>&1 &
        pids="$pids $!" nodes="$nodes --pid $!"
    done
    tries=0
    until "$obelisk" chaincode invoke configure show --network "$net" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 120 ] || { cat "$net"/*.log >&2 && exit 1; }
        sleep 0.5
    done
    printf '\n%s\n' "$1"
    # shellcheck disable=SC2086
    "$obelisk" bench load --network "$net" $nodes $load --seconds "$seconds" --warm-up 4
    stop
}

for mode in ${modes:-software delegated strict}; do run "$mode"; done
