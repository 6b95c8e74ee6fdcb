#!/bin/bash
# Installs what the tests need and is missing, builds, runs every check and test. Run it as root:  ./scripts/test.sh
# The last line is `N passed, N failed`; the exit status says whether all passed.
#   ./scripts/test.sh fast     leaves out the end-to-end cases and the comparison with dockerd's recordings
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "test: containers are made for real: run this as root (sudo $0)" >&2
    exit 1
fi
command -v cargo >/dev/null || { echo "test: cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
mode=${1:-all}
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
tools=$target/test-tools
mkdir -p "$tools"
export PATH=$tools:$PATH

# --- what the tests need -------------------------------------------------------------------------------------------

packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
need cc build-essential
need curl curl
need python3 python3
need busybox busybox-static
need mmdebstrap mmdebstrap
need nft nftables
need ip iproute2
need unshare util-linux
need ps procps
need script bsdutils
need perl perl
need skopeo skopeo
need iptables iptables
# dockerd's library; the programs themselves are unpacked below
ls /lib/x86_64-linux-gnu/libdevmapper.so.1.02.1 >/dev/null 2>&1 || packages+=(libdevmapper1.02.1)
[ "$(uname -m)" = x86_64 ] && [ ! -e /usr/lib/x86_64-linux-gnu/libc.a ] && packages+=(libc6-dev)
if [ ${#packages[@]} -gt 0 ]; then
    echo "test: installing ${packages[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"
fi
# unpack PACKAGE PROGRAM...: programs of other engines that answers are compared with. They are not installed, so that no
# service of theirs starts, now or at the next boot.
unpack() {
    local package=$1 missing=() program work
    shift
    for program in "$@"; do command -v "$program" >/dev/null || missing+=("$program"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "test: unpacking ${missing[*]} from Debian's $package"
    work=$(mktemp -d)
    (
        cd "$work"
        fetch="apt-get -q -o APT::Sandbox::User=root download $package"
        $fetch >/dev/null 2>&1 || { apt-get update -q && $fetch; }
        dpkg -x ./*.deb root
        for program in "${missing[@]}"; do
            install -m 755 "$(find root -type f -path "*bin/$program" | head -n 1)" "$tools/$program"
        done
    )
    rm -rf "$work"
}
unpack docker.io dockerd docker-proxy
unpack containerd containerd containerd-shim-runc-v2
unpack runc runc
unpack docker-registry docker-registry

# The recordings were taken with this docker CLI; only the program itself is fetched, no daemon is installed.
if ! docker --version 2>/dev/null | grep -q 'version 28\.'; then
    echo "test: fetching the docker CLI 28.2.2"
    curl -fsSL https://download.docker.com/linux/static/stable/x86_64/docker-28.2.2.tgz |
        tar -xz -C "$tools" --strip-components=1 docker/docker ||
        echo "test: no docker CLI 28: the cases that use it will fail" >&2
fi
for component in rustfmt clippy; do
    cargo "${component/rust/}" --version >/dev/null 2>&1 || rustup component add "$component"
done

# --- the steps -----------------------------------------------------------------------------------------------------

passed=0 failed=0 failures=()
log=$(mktemp -t longshore-test.XXXXXX)
child=''
trap 'rm -f "$log"' EXIT
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true; exit 130' INT TERM

# step NAME COMMAND...: counts what the command itself counted (`N passed, M failed`, or cargo's `N passed; M failed`), else
# one for the whole.
step() {
    local name=$1 status=0 counts good bad
    shift
    printf '\n== %s\n' "$name"
    local begin=$SECONDS
    "$@" > >(tee "$log") 2>&1 &
    child=$!
    wait "$child" || status=$?
    child=''
    counts=$(sed -nE 's/.*\b([0-9]+) passed[,;] ([0-9]+) failed.*/\1 \2/p' "$log")
    good=$(awk '{n += $1} END {print n + 0}' <<<"$counts")
    bad=$(awk '{n += $2} END {print n + 0}' <<<"$counts")
    if [ "$status" = 0 ] && [ "$bad" = 0 ]; then
        passed=$((passed + (good > 0 ? good : 1)))
    else
        passed=$((passed + good))
        failed=$((failed + (bad > 0 ? bad : 1)))
        failures+=("$name")
    fi
    printf -- '-- %s: %s (%d s)\n' "$name" "$([ "$status" = 0 ] && echo ok || echo "failed with $status")" $((SECONDS - begin))
}

release=$target/x86_64-unknown-linux-gnu/release
step "format" cargo fmt --all --check
step "arrows between crates" scripts/check-arrows
step "source rules" scripts/check-source
step "lints" cargo clippy --workspace --all-targets --quiet -- -D warnings
step "release build" cargo build --release --quiet --workspace
step "unit and integration tests" cargo test --workspace --quiet --no-fail-fast
if [ "$mode" != fast ]; then
    step "end to end" "$release/e2e" --binary "$release/longshore"
    step "comparison with dockerd's recordings" python3 tests/golden/run.py --binary "$release/longshore"
fi

echo
[ ${#failures[@]} = 0 ] || printf 'failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
