# What the guest's stories share; read by network.sh and token.sh.
began=$(cut -d. -f1 /proc/uptime)
step() { printf '\n== %s (%s s)\n' "$*" "$(($(cut -d. -f1 /proc/uptime) - began))"; }
# Every wait has an end: emulation is slow, a network that hangs is not.
until_true() {
    left=180
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || { echo "waited in vain: $*"; return 1; }
        [ $((left % 4)) != 0 ] || progress
        sleep 10
    done
}
# What a node does: its status in systemd names the step of its start.
progress() {
    obelisk network status || true
    for unit in $(systemctl list-units --plain --no-legend 'obelisk@*' | cut -d' ' -f1); do
        echo "   $unit: $(systemctl show --property ActiveState,NRestarts,StatusText --value "$unit" | tr '\n' ' ')"
    done
}
ended() {
    if [ $? != 0 ]; then
        systemctl --no-pager status 'obelisk*' || true
        journalctl --no-pager -b -u 'obelisk@*' -u 'obelisk-signer@*' | tail -n 200 || true
        verdict=FAILED
    else
        verdict=PASSED
    fi
    journalctl --no-pager -b > /root/journal.txt
    sync
    echo "STORY: $verdict"
}
trap ended EXIT

# configure ORGANISATIONS: from the folder of a pilot to the places of the units, as docs/operating.md says. Emulation is slower
# than the defaults allow: 1.5 s for a signature of a token, 2 s for a request to the signer, the timeouts of views. These double
# until a view change succeeds, so what matters is their cap: at 16 s, four validators on half a processor never met in a view.
# Repeated and null requests every few seconds would only take their time.
configure() {
    for org in "$@"; do
        at=/etc/obelisk/$org keep=/var/lib/obelisk-signer/$org
        cp $net/genesis.bin $at/
        cp -r $net/$org/validator $at/
        sed -e "s,^data = .*,data = \"/var/lib/obelisk/$org\"," -e 's,^genesis = .*,genesis = "genesis.bin",' \
            -e "s,^socket = .*,socket = \"/run/obelisk-signer/$org/signer.sock\"," \
            -e 's,^deadline_ms = .*,deadline_ms = 15000,' -e 's,^request_timeout_ms = .*,request_timeout_ms = 10000,' \
            -e 's,^view_change_timeout_ms = .*,view_change_timeout_ms = 15000,' -e 's,^timeout_ms_max = .*,timeout_ms_max = 480000,' \
            -e 's,^retransmit_ms = .*,retransmit_ms = 3000,' -e 's,^null_request_ms = .*,null_request_ms = 30000,' \
            $net/$org/node.toml > $at/node.toml
        sed -e "s,^data = .*,data = \"$keep/slots\"," -e 's,^genesis = .*,genesis = "genesis.bin",' \
            -e "s,^socket = .*,socket = \"/run/obelisk-signer/$org/signer.sock\"," \
            -e "s,^file = .*,file = \"$keep/validator.pem\"," -e 's,^pin = .*,credential = "pin",' \
            -e 's,^deadline_ms = .*,deadline_ms = 10000,' \
            $net/$org/signer.toml > $at/signer.toml
        [ ! -e $net/$org/signer/validator.pem ] || install -o obelisk -m 600 $net/$org/signer/validator.pem $keep/
        chown -R obelisk: $at/validator
        chmod 644 $at/*.toml $at/genesis.bin
    done
}
