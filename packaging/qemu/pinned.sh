#!/bin/sh
# Runs inside the guest, as root: one validator under its unit that has eight cores to itself. Every thread of the running process
# that has a part must be on that part's cores and on no other, read back from the kernel. The last line says PASSED or FAILED.
# boot.sh reads it from the console.
set -eu
. /root/story.sh
org=org1 net=/root/network
export OBELISK_NETWORK=$net

step "the system"
uname -a
lscpu | grep -E 'Architecture|Model name|^CPU\(s\)|Thread|Core|Socket|Book|Drawer' || true
obelisk --version
obelisk host show

step "a validator"
install -d -g obelisk -m 750 /etc/obelisk/$org
obelisk network create --out $net --validators 1 --signer process
install -d -o obelisk -m 700 /var/lib/obelisk-signer/$org
configure $org
sed -i 's/^nodes = .*/nodes = 1/' /etc/obelisk/$org/node.toml
systemctl start --no-block obelisk-signer@$org obelisk@$org
invoke() { obelisk chaincode invoke --timeout 60 configure show; }
until_true invoke

step "where its threads run"
pid=$(systemctl show --property MainPID --value obelisk@$org)
seen() { obelisk host show --config /etc/obelisk/$org/node.toml --process "$pid"; }
# Threads are bound once the node serves, and again those that come later.
placed() { seen > /root/placed && ! grep -q ', not ' /root/placed; }
until_true placed
cat /root/placed
for part in consensus line network background verify; do
    grep -q "($part): " /root/placed || { echo "no thread of the part $part"; exit 1; }
done
# The kernel's own words, without our program: consensus has a core that nobody shares.
on() { grep -h Cpus_allowed_list "/proc/$pid/task"/*/status | sort | uniq -c; }
on
core=$(for task in "/proc/$pid/task"/*; do
    [ "$(cat "$task/comm")" != consensus ] || sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$task/status"
done)
echo "consensus runs on $core"
case "$core" in *-* | *,* | '') echo "that is not one processor"; exit 1 ;; esac

step "one thread is moved by hand, which must show, and is moved back"
tid=$(for task in "/proc/$pid/task"/*; do [ "$(cat "$task/comm")" != consensus ] || basename "$task"; done)
taskset -p -c 7 "$tid"
seen | grep ', not ' || { echo "the misplaced thread was not shown"; exit 1; }
until_true placed

step "done"
