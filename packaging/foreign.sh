# Debian packages of another architecture, for cross builds and for guests in QEMU. Read by ./dev and qemu/boot.sh.
# The packages are of one release, the oldest this project installs on, whatever the host runs. apt's state for them
# lies beside them: the host's own list of architectures and packages stays as it is, and no root is needed.
RELEASE=bookworm
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/obelisk"

# The mirror this machine uses; it must be a Debian.
mirror() {
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -n 1)
    if [ -z "$found" ]; then
        echo "apt knows no Debian mirror here; run 'apt-get update' on a Debian" >&2
        return 1
    fi
    printf '%s' "$found"
}

# foreign_apt ARCH COMMAND...: an apt tool with the state of ARCH.
foreign_apt() {
    state="$CACHE/apt/$1" arch=$1 tool=$2
    shift 2
    "$tool" -qq -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::Etc::sourcelist="$state/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
        -o Dir::Cache="$state/cache" -o Acquire::Languages=none -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 "$@"
}

# unpack ARCH FOLDER PACKAGES...: the files of these packages, without those they depend on, below FOLDER.
unpack() {
    arch=$1 folder=$2 state="$CACHE/apt/$1"
    shift 2
    mkdir -p "$folder" "$state/lists/partial" "$state/cache/archives/partial" "$state/packages"
    : > "$state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $RELEASE main" > "$state/sources.list"
    foreign_apt "$arch" apt-get update
    (cd "$state/packages" && rm -f ./*.deb && foreign_apt "$arch" apt-get download "$@")
    for file in "$state"/packages/*.deb; do dpkg -x "$file" "$folder"; done
    rm -f "$state"/packages/*.deb
}

# depended ARCH PACKAGE: the first package that PACKAGE, an empty one, stands for.
depended() {
    foreign_apt "$1" apt-cache depends "$2" | sed -n 's/^ *Depends: //p' | head -n 1
}
