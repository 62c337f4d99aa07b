#!/bin/sh
# Runs inside the guest, as root: four validators under systemd, each with its signer, the first one's key in a token; a
# contract, transfers, a validator killed and restarted; then every ledger is verified offline. The last line says
# PASSED or FAILED. boot.sh reads it from the console.
set -eu
. /root/story.sh
net=/root/network
export OBELISK_NETWORK=$net SOFTHSM2_CONF=/etc/obelisk/org1/softhsm2.conf
# One question for each look: in emulation a process that speaks TLS costs the validators seconds.
ask() { obelisk network status --json 2>/dev/null | tr ',{' '\n\n' > /run/asked; }
field() { sed -n "s/^ *\"$1\": *\"\{0,1\}\([^\"}]*\).*/\1/p" /run/asked; }
ready() { ask && [ "$(field state | grep -cx ready)" = 4 ]; }
equal() { ready && [ "$(field state_root | sort -u | wc -l)" = 1 ] && [ "$(field height | sort -u | wc -l)" = 1 ]; }

step "the system"
uname -a
. /etc/os-release && echo "$PRETTY_NAME, $(systemctl --version | head -n 1)"
dpkg -s obelisk | grep -E '^(Version|Architecture|Depends)'
obelisk --version
systemctl is-system-running || systemctl --no-pager --failed

step "obelisk host show"
obelisk host show

step "obelisk doctor, the machine alone"
obelisk doctor && code=0 || code=$?
echo "exit code $code"
# 5 is warnings: a small virtual machine has some. 1 would be errors.
case $code in 0 | 5) ;; *) exit 1 ;; esac

step "a token for org1, a network"
keep=/var/lib/obelisk-signer
for org in org1 org2 org3 org4; do
    install -d -g obelisk -m 750 /etc/obelisk/$org
    install -d -o obelisk -g obelisk -m 700 $keep $keep/$org
done
install -d -o obelisk -g obelisk -m 700 $keep/org1/tokens
echo "directories.tokendir = $keep/org1/tokens" > $SOFTHSM2_CONF
install -d -m 700 /etc/credstore
(umask 277 && echo 123456 > /etc/credstore/obelisk-org1.pin)
install -o obelisk -m 400 /etc/credstore/obelisk-org1.pin $keep/org1/pin
cd $keep/org1
runuser -u obelisk -- softhsm2-util --init-token --free --label obelisk --pin 123456 --so-pin 567890
runuser -u obelisk -- obelisk crypto keygen --module /usr/lib/softhsm/libsofthsm2.so --token obelisk --pin pin --id 01 \
    --out card.toml
rm pin
cd /
obelisk network create --out $net --validators 4 --signer process --validator-key org1=$keep/org1/card.toml

configure org1 org2 org3 org4
# The token's library finds its files by a variable.
mkdir -p /etc/systemd/system/obelisk-signer@org1.service.d
printf '[Service]\nEnvironment=SOFTHSM2_CONF=%s\n' $SOFTHSM2_CONF > /etc/systemd/system/obelisk-signer@org1.service.d/token.conf
cat /etc/obelisk/org1/signer.toml
systemctl daemon-reload

step "systemd starts four signers and four nodes"
systemctl start --no-block obelisk-signer@org1 obelisk-signer@org2 obelisk-signer@org3 obelisk-signer@org4
systemctl start --no-block obelisk@org1 obelisk@org2 obelisk@org3 obelisk@org4
until_true ready
obelisk network status
runuser -u obelisk -- obelisk signer status --config /etc/obelisk/org1/signer.toml

step "a contract and transfers"
obelisk chaincode deploy --timeout 300 asset /root/asset.wasm --version 1 --init org1
obelisk chaincode invoke --timeout 300 asset open alice 100
obelisk chaincode invoke --timeout 300 asset open bob 0
for _ in 1 2 3 4 5; do obelisk chaincode invoke --timeout 300 asset transfer alice bob 5 | grep -E 'block|status'; done
[ "$(obelisk chaincode query asset balance bob)" = 25 ]
obelisk state get asset account/bob --proof

step "the first primary is killed; systemd starts it again"
systemctl kill --signal KILL obelisk@org1
until_true obelisk --node 127.0.0.1:7063 chaincode invoke --timeout 60 asset transfer alice bob 5
until_true equal
obelisk network status
systemctl show --property NRestarts obelisk@org1

step "load"
obelisk bench load --warm-up 2 --seconds 20 --in-flight 64 --accounts 100
until_true equal

step "obelisk doctor as the node's user, beside the running node"
runuser -u obelisk -- obelisk doctor --config /etc/obelisk/org1/node.toml && code=0 || code=$?
echo "exit code $code"
case $code in 0 | 5) ;; *) exit 1 ;; esac

step "units"
systemctl --no-pager --lines 3 status obelisk-signer@org1 obelisk@org1 obelisk@org2 obelisk@org3 obelisk@org4
systemctl show --property MemoryCurrent,TasksCurrent,CPUUsageNSec obelisk@org1 obelisk-signer@org1
grep -E '^(CapEff|Seccomp|NoNewPrivs)' "/proc/$(systemctl show --value --property MainPID obelisk@org1)/status"

step "stopped; every ledger is verified offline"
systemctl stop obelisk@org1 obelisk@org2 obelisk@org3 obelisk@org4
systemctl stop obelisk-signer@org1 obelisk-signer@org2 obelisk-signer@org3 obelisk-signer@org4
for org in org1 org2 org3 org4; do obelisk ledger verify --data /var/lib/obelisk/$org --genesis $net/genesis.bin; done
[ -z "$(systemctl list-units --failed --plain --no-legend 'obelisk*')" ]
cp -r /var/lib/obelisk/org1 /root/org1
cp $net/genesis.bin /root/
step "done"
