#!/bin/sh
# Boots Debian, mostly of another architecture, in QEMU, with the package installed and systemd, and has it run a story. As
# root, since it makes a root file system:
#
#   packaging/qemu/boot.sh s390x|ppc64le|x86_64 PACKAGE.deb network|token|pinned [FOLDER]
#
# network: four validators, one with a SoftHSM token, on Debian 12 (network.sh); token: openCryptoki's software token on Debian 13,
# whose version is the first that signs with what is used here (token.sh); pinned: one validator with eight cores to itself, on Debian
# 12 (pinned.sh).
#
# FOLDER (default target/qemu/ARCH-STORY) gets console.log, report.txt, journal.txt and one validator's data directory. Kernel,
# initial file system and an empty root tree are kept in the user's cache; removing that is always safe.
set -eu
here=$(dirname "$(realpath "$0")")
. "$here/../foreign.sh"
package=$2 story=$3 out=${4:-target/qemu/$1-$3}
# Seconds after which a guest that has not ended is stopped.
limit=${OBELISK_QEMU_SECONDS:-5400}

case "$1" in
s390x)
    deb=s390x kernel=linux-image-s390x console=ttysclp0 disk=virtio-blk-ccw
    machine='qemu-system-s390x -M s390-ccw-virtio' cpu=max
    ;;
ppc64le)
    deb=ppc64el kernel=linux-image-powerpc64le console=hvc0 disk=virtio-blk-pci
    # Mitigations that the emulator does not have are declared absent.
    machine='qemu-system-ppc64le -M pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off
        -vga none' cpu=power10
    ;;
x86_64)
    deb=amd64 kernel=linux-image-amd64 console='ttyS0 no_timer_check' disk=virtio-blk-pci
    machine='qemu-system-x86_64 -M q35' cpu=max
    ;;
*) echo "boot.sh: s390x, ppc64le or x86_64" >&2 && exit 2 ;;
esac
case "$story" in
network) release=$RELEASE root=root more='' cores=2 ;;
pinned) release=$RELEASE root=root more='' cores=8 ;;
token) release=trixie root=root-token more=,opencryptoki,procps cores=2 ;;
*) echo "boot.sh: network, token or pinned" >&2 && exit 2 ;;
esac
cache="$CACHE/qemu/$deb"
say() { printf '%s\n' "$*" >&2; }

# Programs of the architecture run in chroot by user-mode QEMU, which the kernel must know.
registered() { grep -qs enabled "/proc/sys/fs/binfmt_misc/qemu-$1"; }
if [ "$1" != "$(uname -m)" ] && ! registered "$1"; then
    [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    cat "/usr/lib/binfmt.d/qemu-$1.conf" > /proc/sys/fs/binfmt_misc/register
fi

# A minimal Debian. No initramfs tools: they take a quarter of an hour in emulation and the kernel needs five modules.
if [ ! -d "$cache/$root" ]; then
    say "Making a Debian $release root for $1"
    rm -rf "$cache/root.new" && mkdir -p "$cache"
    mmdebstrap --quiet --arch="$deb" --variant=minbase \
        --include="systemd-sysv,dbus,libssl3,libhwloc15,libstdc++6,softhsm2$more" \
        "$release" "$cache/root.new" "deb $(mirror) $release main"
    mv "$cache/root.new" "$cache/$root"
fi

if [ ! -e "$cache/initrd" ]; then
    say "Fetching Debian's kernel for $1"
    rm -rf "$cache/kernel" "$cache/first"
    unpack "$deb" "$cache/kernel" busybox-static
    unpack "$deb" "$cache/kernel" "$(depended "$deb" "$kernel")"
    cp "$cache"/kernel/boot/vmlinu[xz]-* "$cache/vmlinux"
    mkdir -p "$cache/first/bin" "$cache/first/modules"
    cp "$cache/kernel/bin/busybox" "$cache/first/bin/"
    install -m 755 "$here/init" "$cache/first/init"
    order=10
    for module in crc32c_generic libcrc32c crc16 mbcache jbd2 ext4 virtio virtio_ring virtio_pci_legacy_dev \
        virtio_pci_modern_dev virtio_pci virtio_blk virtio-rng; do
        found=$(find "$cache/kernel/lib/modules" -name "$module.ko*")
        [ -n "$found" ] || continue # built in
        case "$found" in *.xz) xz -dc "$found" ;; *) cat "$found" ;; esac > "$cache/first/modules/$order-$module.ko"
        order=$((order + 1))
    done
    (cd "$cache/first" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1) > "$cache/initrd.new"
    mv "$cache/initrd.new" "$cache/initrd"
    rm -rf "$cache/kernel" "$cache/first"
fi

say "Installing the package"
mkdir -p "$out"
rm -rf "$out/root" "$out/guest"
cp -a "$cache/$root" "$out/root"
cp "$package" "$out/root/root/obelisk.deb"
mount -t proc proc "$out/root/proc"
chroot "$out/root" env PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg --install /root/obelisk.deb >&2 || failed=yes
umount "$out/root/proc"
[ -z "${failed:-}" ]
install -m 755 "$here/story.sh" "$here/../../contracts/wasm/asset.wasm" "$out/root/root/"
install -m 755 "$here/$story.sh" "$out/root/root/run"
install -m 644 "$here/../../systemd/drop-ins/token-crypto-express.conf" "$out/root/root/"
install -D -m 755 "$here/../../tests/tokens/run.sh" "$out/root/root/tokens/run.sh"
units="$out/root/etc/systemd/system"
install -m 644 "$here/obelisk-story.service" "$units/"
mkdir -p "$units/graphical.target.wants" "$out/root/var/log/journal"
ln -s ../obelisk-story.service "$units/graphical.target.wants/"
ln -s /dev/null "$units/getty.target"
ln -s /dev/null "$units/systemd-firstboot.service"
echo obelisk > "$out/root/etc/hostname"
echo 127.0.0.1 localhost obelisk > "$out/root/etc/hosts"
rm -f "$out/disk"
mke2fs -q -t ext4 -d "$out/root" "$out/disk" 8G
rm -rf "$out/root"

# It becomes the process it is called in, so that this can be ended: always with `&`.
boot() { # ACCELERATOR CPU MEMORY OPTIONS...
    accelerator=$1 model=$2 memory=$3
    shift 3
    # shellcheck disable=SC2086
    exec $machine -accel "$accelerator" -cpu "$model" -m "$memory" -smp "$cores" -nographic -nic none -no-reboot -kernel "$cache/vmlinux" \
        -initrd "$cache/initrd" -append "console=$console rw quiet" "$@" < /dev/null
}
# KVM where the host is of the architecture and a guest without a disk, which switches itself off, gets to its end with it.
accelerator=tcg,thread=multi
if [ "$1" = "$(uname -m)" ] && [ -w /dev/kvm ]; then
    boot kvm host 512M > "$out/kvm.log" 2>&1 &
    tried=$! left=30
    while kill -0 $tried 2>/dev/null && [ $left -gt 0 ]; do sleep 1 && left=$((left - 1)); done
    if [ $left = 0 ]; then kill $tried; fi
    if wait $tried; then accelerator=kvm cpu=host; else say "KVM does not work here ($out/kvm.log); emulating"; fi
fi

say "Booting ($accelerator); the console goes to $out/console.log, and the guest is stopped after $limit s"
began=$(date +%s)
: > "$out/console.log"
boot "$accelerator" "$cpu" 4G -drive "file=$out/disk,format=raw,if=none,id=disk,cache=unsafe" -device "$disk,drive=disk" \
    >> "$out/console.log" 2>&1 &
guest=$!
trap 'kill $guest 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# Each step of the story as it begins; a guest that has not ended in time is stopped.
shown=0 ended=timeout
while [ $(($(date +%s) - began)) -lt "$limit" ]; do
    steps=$(tr -d '\r' < "$out/console.log" | grep -a '^== ' || true)
    count=$(printf '%s' "$steps" | grep -c '' || true)
    [ "$count" = "$shown" ] || printf '%s\n' "$steps" | tail -n +$((shown + 1)) | sed 's/^==/  /' >&2
    shown=$count
    kill -0 $guest 2>/dev/null || { wait $guest && ended=0 || ended=$?; break; }
    sleep 5
done
trap - EXIT INT TERM
[ $ended != timeout ] || { kill $guest 2>/dev/null && wait $guest || true; }
say "The guest ended after $(($(date +%s) - began)) s ($ended)"
mkdir -p "$out/guest"
for file in report.txt journal.txt genesis.bin; do debugfs -R "dump /root/$file $out/guest/$file" "$out/disk" 2>/dev/null; done
debugfs -R "rdump /root/org1 $out/guest" "$out/disk" 2>/dev/null
rm -f "$out/disk"
tail -n 40 "$out/console.log" >&2
if ! tr -d '\r' < "$out/console.log" | grep -aqx 'STORY: PASSED'; then
    say "FAILED: $out/console.log says why"
    exit 1
fi
say "passed: the story '$story' on $1"
