#!/bin/bash
# Builds the images that the scenarios use, from Debian's packages alone, as one `docker load` archive.
#   make-images.sh OUT.tar        busybox:latest hello-world:latest alpine:3.10 debian:trixie-slim (+ a few tags)
# SMALL=1 leaves the debian image out.
# Needs: busybox-static mmdebstrap gcc libc6-dev python3, as root.
set -euo pipefail
out=$(realpath "$1"); work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

mkdir -p bb/{bin,etc,root,home,proc,sys,dev,tmp,usr,var/spool/mail,var/www}; chmod 1777 bb/tmp
cp "$(command -v busybox)" bb/bin/busybox
for applet in $(bb/bin/busybox --list); do [ "$applet" = busybox ] || ln -sf busybox "bb/bin/$applet"; done
printf '%s\n' root:x:0:0:root:/root:/bin/sh daemon:x:1:1:daemon:/usr/sbin:/bin/false www-data:x:33:33::/var/www:/bin/false \
  operator:x:37:37::/var:/bin/false nobody:x:65534:65534:nobody:/home:/bin/false > bb/etc/passwd
printf '%s\n' root:x:0: daemon:x:1: adm:x:4: tty:x:5: wheel:x:10:root audio:x:29: www-data:x:33: operator:x:37: users:x:100: nobody:x:65534: > bb/etc/group

mkdir hw; printf '#include <unistd.h>\nint main(void){static const char m[]="\\nHello from Docker!\\n";return write(1,m,sizeof m-1)<0;}\n' > hello.c
gcc -static -Os -o hw/hello hello.c

tar -C bb --owner=0 --group=0 --sort=name -cf bb.tar .
tar -C hw --owner=0 --group=0 --sort=name -cf hw.tar .
[ "${SMALL:-}" ] || mmdebstrap --quiet --variant=minbase "${DEBIAN_SUITE:-bookworm}" deb.tar

python3 - "$out" <<'PY'
import hashlib, json, sys, tarfile, io
path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
images = [("bb.tar", {"Cmd": ["sh"], "Env": [path]}, ["busybox:latest", "busybox:glibc", "alpine:3.10"]),
          ("hw.tar", {"Cmd": ["/hello"], "Env": [path]}, ["hello-world:latest", "hello-world:frozen", "hello-world:amd64"]),
          ("deb.tar", {"Cmd": ["bash"], "Env": [path]}, ["debian:trixie-slim", "debian:bookworm-slim"])]
import os
images = [i for i in images if os.path.exists(i[0])]
manifest = []
with tarfile.open(sys.argv[1], "w") as out:
    def add(name, data):
        info = tarfile.TarInfo(name); info.size = len(data); out.addfile(info, io.BytesIO(data))
    for layer, config, tags in images:
        data = open(layer, "rb").read(); digest = hashlib.sha256(data).hexdigest()
        add(f"{digest}/layer.tar", data)
        body = json.dumps({"architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": config,
                           "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
                           "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "make-images.sh"}]}).encode()
        name = hashlib.sha256(body).hexdigest() + ".json"; add(name, body)
        manifest.append({"Config": name, "RepoTags": tags, "Layers": [f"{digest}/layer.tar"]})
    add("manifest.json", json.dumps(manifest).encode())
PY
