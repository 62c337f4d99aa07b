# Builds and tests for another architecture on a Debian host of x86-64. Read by ./dev, which has `say`, `need`, `setup`.
. packaging/foreign.sh

# The names that everybody gives to one architecture.
architecture() {
    case "${1:-}" in
    s390x) triple=s390x-unknown-linux-gnu gnu=s390x-linux-gnu deb=s390x emulator='qemu-s390x-static -cpu max' ;;
    ppc64le) triple=powerpc64le-unknown-linux-gnu gnu=powerpc64le-linux-gnu deb=ppc64el emulator='qemu-ppc64le-static -cpu power10' ;;
    *) say "which architecture? s390x or ppc64le" && exit 2 ;;
    esac
    upper=$(printf '%s' "$triple" | tr 'a-z-' 'A-Z_') lower=$(printf '%s' "$triple" | tr - _)
}

# Compilers and user-mode QEMU.
cross_tools() {
    need "command -v $gnu-gcc && command -v $gnu-g++" "gcc-$gnu g++-$gnu libc6-dev-$deb-cross" "gcc-$gnu" "cross-$gnu-gcc"
    need "command -v ${emulator%% *}" qemu-user-static qemu-user-static qemu-linux-user
    setup || return
    rustup -q target add "$triple" || return
    export "CARGO_TARGET_${upper}_LINKER=$gnu-gcc" "CARGO_TARGET_${upper}_RUNNER=$emulator -L /usr/$gnu"
}

# The whole appliance. Its libraries come from a root tree of the target, beside cargo's cache.
cross_build() {
    root="$CACHE/sysroot/$deb"
    if [ ! -e "$root/usr/lib/$gnu/libhwloc.so" ]; then
        say "Fetching OpenSSL, hwloc and the C library for $deb"
        unpack "$deb" "$root" libc6 libc6-dev linux-libc-dev libgcc-s1 libstdc++6 libssl3 libssl-dev libudev1 libudev-dev \
            libhwloc15 libhwloc-dev
        # Debian's is an absolute link, which user-mode QEMU would follow out of the tree.
        [ ! -L "$root/lib64/ld64.so.2" ] || ln -sf "../lib/$gnu/ld64.so.2" "$root/lib64/ld64.so.2"
    fi
    # Debian's libm.so and others are absolute links. The linker, which finds nothing behind them, would take the static library:
    # on s390x without a word, and on ppc64el that needs what only the dynamic loader has.
    find "$root/usr/lib/$gnu" -maxdepth 1 -type l -lname '/*' | while read -r link; do
        ln -sf "../../..$(readlink "$link")" "$link"
    done
    export "${upper}_OPENSSL_LIB_DIR=$root/usr/lib/$gnu" "${upper}_OPENSSL_INCLUDE_DIR=$root/usr/include"
    export "CFLAGS_$lower=--sysroot=$root" "CXXFLAGS_$lower=--sysroot=$root"
    export "BINDGEN_EXTRA_CLANG_ARGS_$lower=--sysroot=$root" "CARGO_TARGET_${upper}_RUSTFLAGS=-C link-arg=--sysroot=$root"
    # pkg-config's answers for the target; build scripts of the host ask it nothing here.
    export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_SYSROOT_DIR="$root" PKG_CONFIG_LIBDIR="$root/usr/lib/$gnu/pkgconfig"
    cargo build --release --locked --target "$triple"
    program="${CARGO_TARGET_DIR:-target}/$triple/release/obelisk"
}

# A package with the program of the target; its man pages and completions are made by that program.
cross_package() {
    case "${1:-deb}" in
    deb | rpm) ;;
    *) say "deb or rpm? ./dev cross $deb package rpm" && exit 2 ;;
    esac
    cross_build
    rm -rf target/package
    $emulator -L "$root" "$program" generate target/package
    case "${1:-deb}" in
    deb)
        tool cargo-deb 3.8.0
        cargo deb --no-build --locked --target "$triple" --variant cross --output "target/cross/obelisk_$deb.deb"
        ;;
    rpm)
        tool cargo-generate-rpm 0.21.1
        mkdir -p target/cross
        cargo generate-rpm --target "$triple" --target-dir "${CARGO_TARGET_DIR:-target}" --auto-req disabled \
            --set-metadata "requires = { systemd = \"*\", $(rpm_requires) }" --output target/cross
        ls target/cross/*.rpm
        ;;
    esac
}

# What the program asks of its libraries, in rpm's words for a library and for a version of its symbols, as rpm's own tools
# would find it; those and `ldd` cannot read a program of another architecture.
rpm_requires() {
    "$gnu-objdump" -p "$program" | awk '
        $1 == "NEEDED" { print $2 "()" }
        $1 == "required" && $2 == "from" { library = substr($3, 1, length($3) - 1) }
        /^ +0x/ && NF == 4 && library != "" { print library "(" $4 ")" }' |
        sed 's/.*/"&(64bit)" = "*"/' | paste -s -d , -
}

# Floors 0 to 2 and the frozen vectors, in pure Rust.
cross_test() {
    cargo test --locked --no-default-features --target "$triple" --lib --test main -- \
        types:: crypto:: storage:: ledger:: consensus:: membership:: signer:: vectors::
}

cross() {
    architecture "${1:-}"
    case "${2:-}" in
    build | test | package | exchange) cross_tools ;;
    *) say "build, test, package or exchange? ./dev cross $1 build" && exit 2 ;;
    esac
    case "$2" in
    build) cross_build ;;
    test) cross_test ;;
    package) cross_package "${3:-deb}" ;;
    exchange)
        build
        cross_build
        packaging/qemu/exchange.sh "${CARGO_TARGET_DIR:-target}/release/obelisk" "$emulator -L $root $program"
        ;;
    esac
}

# A Debian system in QEMU with the package installed: packaging/qemu/boot.sh.
guest() {
    case "${1:-}" in
    s390x) from=qemu-system-misc ;;
    ppc64le) from=qemu-system-ppc ;;
    x86_64) from=qemu-system-x86 ;;
    *) say "which architecture? s390x, ppc64le or x86_64" && exit 2 ;;
    esac
    story=${2:-network}
    case "$story" in
    network | token | pinned) ;;
    *) say "network, token or pinned? ./dev qemu $1 network" && exit 2 ;;
    esac
    # From Debian 13 on s390x has a package of its own.
    ! apt-cache show "qemu-system-$1" >/dev/null 2>&1 || from="qemu-system-$1"
    need "command -v qemu-system-$1" "$from" "qemu-system-$1" qemu
    need 'command -v mmdebstrap && command -v arch-test' 'mmdebstrap arch-test' mmdebstrap mmdebstrap
    need 'command -v cpio && command -v mke2fs' 'cpio e2fsprogs' 'cpio e2fsprogs' 'cpio e2fsprogs'
    if [ "$1" = x86_64 ]; then
        setup
        package deb
    else
        architecture "$1"
        cross_tools
        cross_package
        made="target/cross/obelisk_$deb.deb"
    fi
    as_root=''
    [ "$(id -u)" = 0 ] || as_root='sudo -E'
    $as_root packaging/qemu/boot.sh "$1" "$made" "$story"
}

# What `./dev test` adds on a machine that can: the portable floors, big-endian.
test_big_endian() {
    if [ "$(uname -m)" != x86_64 ] || ! command -v apt-get >/dev/null || ! command -v rustup >/dev/null; then
        say "SKIPPED: the tests for s390x need x86-64, apt and rustup"
    elif ! (architecture s390x && cross_tools); then # exit and return alike
        say "SKIPPED: the tests for s390x: no cross compiler, user-mode QEMU or Rust library could be installed"
    else
        cross s390x test
    fi
}
