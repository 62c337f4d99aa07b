#!/bin/sh
# One network, two architectures: of four validators two are native and two run under user-mode QEMU; then they change
# places on the same data directories; then they change again and execute everything anew. Roots must agree throughout.
#
#   packaging/qemu/exchange.sh PROGRAM 'EMULATOR... PROGRAM'
set -eu
native=$1 foreign=$2
work=$(mktemp -d)
export OBELISK_NETWORK="$work/net"
running=''
ended() {
    code=$?
    # shellcheck disable=SC2086
    [ -z "$running" ] || kill $running 2>/dev/null || true
    if [ $code = 0 ]; then rm -rf "$work"; else echo "FAILED; logs and data are in $work" >&2; fi
}
trap ended EXIT
until_true() {
    left=300
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || { echo "waited in vain: $*" >&2 && return 1; }
        sleep 2
    done
}
field() { $native network status --json 2>/dev/null | tr ',{' '\n\n' | sed -n "s/^ *\"$1\": *\"\{0,1\}\([^\"}]*\).*/\1/p"; }
ready() { [ "$(field state | grep -cx ready)" = 4 ]; }
equal() { ready && [ "$(field state_root | sort -u | wc -l)" = 1 ] && [ "$(field height | sort -u | wc -l)" = 1 ]; }

# start PROGRAM ORGANISATIONS...
start() {
    program=$1
    shift
    for org in "$@"; do
        $program node --config "$work/net/$org/node.toml" >> "$work/$org.log" 2>&1 &
        running="$running $!"
    done
}
stop() {
    # shellcheck disable=SC2086
    kill $running
    # shellcheck disable=SC2086
    wait $running
    running=''
}
# round NATIVE-ORGANISATIONS FOREIGN-ORGANISATIONS
round() {
    # shellcheck disable=SC2086
    { start "$native" $1 && start "$foreign" $2; }
    until_true equal
    echo "native: $1; emulated: $2; all at height $(field height | head -n 1), state root $(field state_root | head -n 1)"
}
transfer() {
    for _ in 1 2 3 4 5; do $native chaincode invoke --timeout 300 asset transfer alice bob 1 > /dev/null; done
    until_true equal
    $native network status
}

$native network create --out "$work/net" --validators 4 --base-port 21050 > /dev/null
round 'org1 org2' 'org3 org4'
$native chaincode deploy --timeout 300 asset contracts/wasm/asset.wasm --version 1 --init org1 > /dev/null
$native chaincode invoke --timeout 300 asset open alice 100 > /dev/null
$native chaincode invoke --timeout 300 asset open bob 0 > /dev/null
transfer
stop

echo "Each ledger, blocks, certificates and receipts, by the program of the other architecture:"
for org in org1 org2; do $foreign ledger verify --data "$work/net/$org/data" --genesis "$work/net/genesis.bin"; done
for org in org3 org4; do $native ledger verify --data "$work/net/$org/data" --genesis "$work/net/genesis.bin"; done

echo "Places changed: each opens what the other architecture wrote, store and all"
round 'org3 org4' 'org1 org2'
transfer
stop

echo "Changed again, with two stores gone: every block is executed anew, every root compared with the recorded one"
rm -r "$work/net/org1/data/state" "$work/net/org3/data/state"
round 'org1 org2' 'org3 org4'
transfer
stop
echo "passed: ledgers and stores of one architecture are those of the other"
