#!/bin/sh
# Runs inside the guest, as root, on a Debian 13: openCryptoki's software token. First the conformance of tests/tokens, then a
# validator whose signer runs under its unit with the drop-in for openCryptoki; the token's daemon is restarted under it. The
# last line says PASSED or FAILED. boot.sh reads it from the console.
set -eu
. /root/story.sh
org=org1 net=/root/network keep=/var/lib/obelisk-signer/org1
export OBELISK_NETWORK=$net

step "the system"
uname -a
. /etc/os-release && echo "$PRETTY_NAME, $(systemctl --version | head -n 1)"
dpkg-query --show obelisk opencryptoki libssl3t64
obelisk --version
systemctl is-active pkcsslotd
pkcsconf -t | grep -E 'Token #|Label|Model' || true

step "the conformance of tests/tokens"
OBELISK=/usr/bin/obelisk SIGNATURES=50 TMPDIR=/var/tmp /root/tokens/run.sh opencryptoki

step "a key for a validator, made as the signer's user"
install -d -g obelisk -m 750 /etc/obelisk/$org
install -d -o obelisk -g obelisk -m 700 /var/lib/obelisk-signer $keep
install -d -m 700 /etc/credstore
(umask 277 && echo 01234567 > /etc/credstore/obelisk-$org.pin)
install -o obelisk -m 400 /etc/credstore/obelisk-$org.pin $keep/pin
module=$(ls /usr/lib/*/pkcs11/libopencryptoki.so)
cd $keep
# The library asks the database of groups, so that SupplementaryGroups= alone is not enough.
usermod -aG pkcs11 obelisk
# Debian leaves the token's folder to root alone.
chgrp -R pkcs11 /var/lib/opencryptoki/swtok
chmod 770 /var/lib/opencryptoki/swtok /var/lib/opencryptoki/swtok/TOK_OBJ
runuser -u obelisk -- obelisk crypto keygen --module "$module" --token obelisk-trial --pin pin --id 10 --out card.toml
rm pin
cd /
obelisk network create --out $net --validators 1 --signer process --validator-key $org=$keep/card.toml
configure $org
drop=/etc/systemd/system/obelisk-signer@$org.service.d
mkdir -p $drop
cp /root/token-crypto-express.conf $drop/token.conf
cat $drop/token.conf
systemctl daemon-reload

step "systemd starts the signer and the node"
systemctl start --no-block obelisk-signer@$org obelisk@$org
invoke() { obelisk chaincode invoke --timeout 60 configure show; }
until_true invoke
obelisk network status
signed() { runuser -u obelisk -- obelisk signer status --config /etc/obelisk/$org/signer.toml; }
signed

step "the token's daemon is restarted under the signer"
systemctl restart pkcsslotd
until_true invoke
signed
systemctl show --property NRestarts obelisk-signer@$org obelisk@$org

step "the signer is killed"
systemctl kill --signal KILL obelisk-signer@$org
until_true invoke
signed
systemctl --no-pager --lines 3 status pkcsslotd obelisk-signer@$org obelisk@$org
step "done"
