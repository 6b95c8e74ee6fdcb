#!/bin/bash
# Runs the end-to-end cases in a virtual machine whose control groups are cgroup2 alone, as on most hosts of today, whatever
# the host of the tests has. Run it as root:  tests/vm/run.sh LONGSHORE [E2E]
#
# The machine has Debian's cloud kernel, an ext4 disk with busybox, the two static programs and the tools that the cases use
# (copied from this host), 2 processors without KVM, no network. What it needs and is missing is installed; the kernel is only
# unpacked below target/. The last line is `N passed, N failed` of the run inside; the exit status says whether all passed.
#   E2E_FILTER, E2E_SKIP   which cases: parts of their names, comma separated
#   VM_TIMEOUT             seconds for the whole machine, 1800
#   VM_KEEP                keep the disk and the console's text below target/vm
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

[ $# -ge 1 ] || { echo "usage: $0 LONGSHORE [E2E]" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "vm: packages and a disk with owners are made: run this as root" >&2; exit 2; }
binary=$(realpath "$1")
e2e=$(realpath "${2:-$(dirname "$binary")/e2e}")
target=$(cd "$root" && cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
cache=$target/vm
mkdir -p "$cache"
for program in "$binary" "$e2e"; do
    [ -x "$program" ] || { echo "vm: $program: not there (cargo build -p longshore -p e2e)" >&2; exit 2; }
done

# Skipped inside, and why: docker_py needs python with docker-py, which the machine does not have; a hundred megabytes of log
# lines take minutes on an emulated processor and do not ask for control groups.
skip=docker_py,logs.hundred_megabytes,${E2E_SKIP:-nothing}

# --- what this needs from the host ---------------------------------------------------------------------------------

packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
need qemu-system-x86_64 qemu-system-x86
need busybox busybox-static
need mkfs.ext4 e2fsprogs
need perl perl-base
need curl curl
need nft nftables
need ip iproute2
need script bsdutils
need ps procps
need dash dash
if [ ${#packages[@]} -gt 0 ]; then
    echo "vm: installing ${packages[*]}"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}" >/dev/null
fi
if ldd "$(command -v busybox)" >/dev/null 2>&1; then
    echo "vm: busybox must be the static one (package busybox-static)" >&2
    exit 2
fi

# The newest kernel of the distribution, unpacked and not installed: Debian has one package, Ubuntu the modules apart.
fetch_kernel() {
    local meta image name
    for meta in linux-image-cloud-amd64 linux-image-virtual; do
        image=$(apt-cache depends "$meta" 2>/dev/null | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
        [ -z "$image" ] || break
    done
    if [ -z "$image" ]; then
        apt-get update -q >/dev/null
        image=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
    fi
    [ -n "$image" ] || { echo "vm: apt knows no linux-image-cloud-amd64 and no linux-image-virtual" >&2; return 1; }
    rm -rf "$cache/kernel.new"
    mkdir -p "$cache/kernel.new/deb"
    chmod 755 "$cache/kernel.new/deb"
    for name in "$image" "${image/image/modules}"; do
        (cd "$cache/kernel.new/deb" && apt-get download -q "$name" >/dev/null 2>&1) || [ "$name" != "$image" ] || return 1
    done
    for name in "$cache"/kernel.new/deb/*.deb; do dpkg -x "$name" "$cache/kernel.new"; done
    rm -rf "$cache/kernel.new/deb" "$cache/kernel"
    mv "$cache/kernel.new" "$cache/kernel"
}
ls "$cache"/kernel/boot/vmlinuz-* >/dev/null 2>&1 || { echo "vm: fetching a kernel"; fetch_kernel; }
vmlinuz=$(echo "$cache"/kernel/boot/vmlinuz-*)
release=${vmlinuz##*/vmlinuz-}
# Newer releases keep modules in /usr/lib.
modules=$(find "$cache/kernel" -type d -path "*lib/modules/$release" | head -1)

images=$cache/images.tar
[ -e "$images" ] || { SMALL=1 "$root/tests/tools/make-images.sh" "$images.new"; mv "$images.new" "$images"; }

# --- the machine's disk --------------------------------------------------------------------------------------------

work=$(mktemp -d "$cache/run.XXXXXX")
qemu=''
clean() {
    # timeout passes the signal on to the machine
    [ -z "$qemu" ] || { kill -TERM "$qemu" && wait "$qemu"; } 2>/dev/null || true
    [ -n "${VM_KEEP:-}" ] || rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM
disk=$work/disk

# A program with its libraries, at their own paths.
take() {
    local path file
    for path in "$@"; do
        path=$(command -v "$path") || { echo "vm: $1 is missing" >&2; return 1; }
        for file in "$path" $(ldd "$path" 2>/dev/null | grep -o '/[^ )]*'); do
            [ -e "$disk$file" ] && continue
            mkdir -p "$disk$(dirname "$file")"
            cp -L "$file" "$disk$file"
        done
    done
}

# Folders of the kernel's modules: file systems, links, bridges, packet filters, the disk. Decompressed, as busybox wants them.
take_modules() {
    local to=$1 part
    shift
    for part in "$@"; do
        [ -e "$modules/kernel/$part" ] || continue
        mkdir -p "$to/lib/modules/$release/kernel/$(dirname "$part")"
        cp -r "$modules/kernel/$part" "$to/lib/modules/$release/kernel/$part"
    done
    find "$to/lib/modules" -name '*.ko.xz' -exec xz -d {} + -o -name '*.ko.zst' -exec zstd -q -d --rm {} +
    cp "$modules"/modules.builtin* "$to/lib/modules/$release/" 2>/dev/null || true
    busybox depmod -b "$to" "$release"
}

mkdir -p "$disk"/{bin,sbin,usr/bin,usr/sbin,usr/lib,lib,lib64,etc,proc,sys,dev,run,tmp,root,var/lib,opt}
chmod 1777 "$disk/tmp"
# A merged /usr as on the host: libraries are found by both names.
rmdir "$disk"/{bin,sbin,lib,lib64}
mkdir -p "$disk/usr/lib64"
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$disk/$folder"; done
cp "$(command -v busybox)" "$disk/bin/busybox"
take ip nft unshare nsenter script curl timeout env perl ps dash
# busybox's shell would take its own `ip` and `ps`.
ln -s dash "$disk/bin/sh"
docker=$(command -v docker) || { echo "vm: no docker CLI" >&2; exit 2; }
cp -L "$docker" "$disk/usr/bin/docker"
for applet in $(busybox --list-full); do
    [ -e "$disk/$applet" ] || [ -e "$disk/usr/bin/${applet##*/}" ] || ln -s /bin/busybox "$disk/$applet"
done
for program in longshore e2e; do
    from=$binary
    [ "$program" = longshore ] || from=$e2e
    strip -o "$disk/opt/$program" "$from" 2>/dev/null || cp "$from" "$disk/opt/$program"
done
cp "$images" "$disk/opt/images.tar"
cp "$here/init" "$disk/opt/init"
chmod 755 "$disk/opt/init"
echo root:x:0:0:root:/root:/bin/sh >"$disk/etc/passwd"
printf '%s\n' root:x:0: tty:x:5: docker:x:900: >"$disk/etc/group"
printf '%s\n' ID=vm 'PRETTY_NAME="A machine for tests"' >"$disk/etc/os-release"
echo vm >"$disk/etc/hostname"
echo 127.0.0.1 localhost vm >"$disk/etc/hosts"
echo nameserver 192.0.2.53 >"$disk/etc/resolv.conf"
{
    echo "filter=${E2E_FILTER:-}"
    echo "skip=$skip"
    echo "patience=${E2E_PATIENCE:-5}"
} >"$disk/opt/settings"
take_modules "$disk" fs/overlayfs fs/fuse drivers/net/veth.ko drivers/net/veth.ko.xz drivers/net/veth.ko.zst drivers/net/dummy.ko \
    drivers/net/tun.ko net lib block drivers/block/loop.ko crypto
mkfs.ext4 -q -F -O ^has_journal -E root_owner=0:0 -d "$disk" "$work/disk.img" 3G

# The first file system only finds the disk.
early=$work/early
mkdir -p "$early"/{bin,proc,dev,disk}
cp "$(command -v busybox)" "$early/bin/busybox"
take_modules "$early" drivers/virtio drivers/block/virtio_blk.ko drivers/block/virtio_blk.ko.xz drivers/block/virtio_blk.ko.zst fs/ext4 \
    fs/jbd2 fs/mbcache.ko lib/crc16.ko crypto
cat >"$early/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk ext4; do busybox modprobe -q $module; done
busybox mount -t ext4 /dev/vda /disk || { busybox echo 'vm: no disk'; busybox poweroff -f; }
busybox umount /proc
exec busybox switch_root /disk /opt/init
INIT
chmod 755 "$early/init"
(cd "$early" && find . | busybox cpio -o -H newc 2>/dev/null >"$work/early.cpio")

# --- the run -------------------------------------------------------------------------------------------------------

console=$work/console
begin=$SECONDS
timeout -k 5 "${VM_TIMEOUT:-1800}" qemu-system-x86_64 -accel tcg,thread=multi -m 1536 -smp 2 -nographic -no-reboot -nodefaults -serial stdio -net none \
    -kernel "$vmlinuz" -initrd "$work/early.cpio" -append "console=ttyS0 quiet panic=-1 mitigations=off" \
    -drive "file=$work/disk.img,if=virtio,format=raw,cache=unsafe" </dev/null > >(sed -u 's/\r//g' | tee "$console") 2>&1 &
qemu=$!
status=0
wait "$qemu" || status=$?
qemu=''
sleep 0.2
inside=$(sed -n 's/^vm: e2e ended with \([0-9]*\)$/\1/p' "$console")
if [ -z "$inside" ]; then
    echo "vm: the machine ended with $status after $((SECONDS - begin)) s, without a result"
    echo "0 passed, 1 failed"
    exit 1
fi
exit "$inside"
