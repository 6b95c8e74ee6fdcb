#!/bin/bash
# Builds longshore, starts a daemon on private paths, walks through what a user of docker.sock does, shows each step and its
# answer, and leaves nothing behind. Run it as root:  ./scripts/demo.sh
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "demo: a container engine makes namespaces, mounts and cgroups: run this as root (sudo $0)" >&2
    exit 1
fi
for tool in cargo cc curl; do
    command -v "$tool" >/dev/null || {
        echo "demo: $tool is missing (Debian, Ubuntu: apt-get install build-essential curl; Rust: https://rustup.rs)" >&2
        exit 1
    }
done

bold=$(printf '\033[1m') plain=$(printf '\033[0m')
[ -t 1 ] || bold='' plain=''
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; "$@"; }

step "Build (cargo build --release)"
cargo build --release -p longshore
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
binary=$target/x86_64-unknown-linux-gnu/release/longshore
ls -lh "$binary"

root=$(mktemp -d -t longshore-demo.XXXXXX)
socket=$root/docker.sock
bridge=lsdemo$(($$ % 10000))
export DOCKER_HOST=unix://$socket
longshore() { "$binary" "$@"; }
api() { curl -sS --unix-socket "$socket" "$@"; }
daemon='' followers=()

start_daemon() {
    "$binary" daemon -H "unix://$socket" --data-root "$root/data" --exec-root "$root/exec" --bridge "$bridge" \
        >>"$root/log" 2>&1 &
    daemon=$!
    for _ in $(seq 100); do
        api http://localhost/_ping >/dev/null 2>&1 && return
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    echo "demo: the daemon does not answer; its log:" >&2
    cat "$root/log" >&2
    return 1
}

clean_up() {
    status=$?
    trap - EXIT
    for pid in "${followers[@]}"; do kill "$pid" 2>/dev/null || true; done
    # A daemon killed in the middle leaves its containers running: one to remove them.
    if [ -n "$daemon" ] && ! kill -0 "$daemon" 2>/dev/null; then start_daemon || true; fi
    ids=$(longshore ps -aq 2>/dev/null || true)
    # shellcheck disable=SC2086
    [ -z "$ids" ] || longshore rm -f -v $ids >/dev/null || true
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then wait "$daemon" 2>/dev/null || true; fi
    [ "$status" = 0 ] || { echo "demo: failed; the end of the daemon's log:" >&2; tail -20 "$root/log" >&2; }
    rm -rf "$root"
    left=''
    grep -q "$root" /proc/self/mountinfo && left="$left mounts"
    [ -e "/sys/class/net/$bridge" ] && left="$left link:$bridge"
    if command -v nft >/dev/null && nft list tables 2>/dev/null | grep -q "$bridge"; then left="$left rules"; fi
    if [ -n "$left" ]; then
        echo "demo: left behind:$left" >&2
        status=1
    elif [ "$status" = 0 ]; then
        printf '\n%sNothing is left: no container, mount, link, rule or file.%s\n' "$bold" "$plain"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "Start a daemon on a private socket: longshore daemon -H unix://$socket --data-root ... --bridge $bridge"
start_daemon
show longshore images

step "Somebody listens to /events (curl, hanging on)"
api -N http://localhost/events >"$root/events" 2>/dev/null &
followers+=($!)
sleep 0.3

step "Create a container with curl"
answer=$(api -w '\n%{http_code}' -XPOST -d '{"Image":"longshore/hello","Cmd":["serve"]}' \
    -H 'Content-Type: application/json' http://localhost/containers/create)
echo "$answer"
id=$(printf '%s' "$answer" | sed -n 's/.*"Id":"\([0-9a-f]*\)".*/\1/p')
[ "${#id}" = 64 ]
show longshore ps -a

step "Start it with curl"
status=$(api -o /dev/null -w '%{http_code}' -XPOST "http://localhost/containers/$id/start")
echo "$status"
[ "$status" = 204 ]
show longshore ps

step "Run a container and see its output"
show longshore run --rm longshore/hello

step "Publish a port"
show longshore run -d --name web -p 127.0.0.1::80 longshore/hello serve
port=$(longshore ps -f name=web --format '{{.Ports}}' | sed 's/.*:\([0-9]*\)->.*/\1/')
show curl -sS "http://127.0.0.1:$port/"

step "An interactive terminal with the engine's socket inside: it sees the same events"
if command -v script >/dev/null; then
    script -qec "'$binary' run --rm --name inside -ti -v '$socket:/var/run/docker.sock' longshore/hello events 4" \
        /dev/null </dev/null &
    inside=$!
    for _ in $(seq 50); do
        [ -n "$(longshore ps -q -f name=inside)" ] && break
        sleep 0.1
    done
    sleep 0.3
    longshore run --rm --name other longshore/hello >/dev/null
    wait "$inside"
else
    echo "(no script(1) here to make a terminal: left out)"
fi

step "What the listener saw of all this"
sed 's/.*"Type":"\([^"]*\)","Action":"\([^"]*\)".*/\1 \2/' "$root/events" | head -20

step "Kill the daemon (SIGKILL): containers go on, the next daemon adopts them"
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null || true
show curl -sS "http://127.0.0.1:$port/"
start_daemon
show longshore ps
show longshore exec web /hello greet
show longshore logs web

if command -v docker >/dev/null; then
    step "The docker CLI, unmodified"
    show docker version --format 'client {{.Client.Version}}, server {{.Server.Version}}'
    show docker ps
    show docker run --rm longshore/hello greet
fi

step "Twenty containers, one after the other: create, start, wait, remove"
TIMEFORMAT='%R s'
time for _ in $(seq 20); do longshore run --rm longshore/hello >/dev/null; done

step "Clean up"
show longshore rm -f web "$id"
