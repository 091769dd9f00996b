#!/usr/bin/env bash
# Record on another kernel, in emulation, the way the recordings of 6.1 and 6.12 in data/ were made (by a forerunner).
#
#   tools/record_in_qemu.sh KERNEL.deb OUT.json.gz ARGUMENT…
#
# KERNEL.deb is a Debian linux-image package for amd64; the small "cloud" ones have all that is needed, and
# apt-get download fetches one (bookworm has 6.1, its backports 6.12). The arguments are those of
# `python -m anonfolio record` after the file: scenarios, or --random N --seed S --kind K.
# Needs qemu-system-x86, busybox-static, cpio and .venv (make lab or make test makes it); no root. The machine is made
# on the spot from this tree, .venv's Python and numpy, and vanishes. Booting takes a minute or two, a program one or two seconds.
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for tool in qemu-system-x86_64 busybox cpio dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing" >&2; exit 2; }
done
project=$(cd "$(dirname "$0")/.." && pwd)
python=$project/.venv/bin/python
package=$1 out=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,dev,in,proc,project,sys,tmp}

dpkg-deb -x "$package" "$work/kernel"
cp "$(command -v busybox)" "$root/bin/busybox"
cp -r "$project/anonfolio" "$root/project/"

# Python as it lies here, at the same places, less what no recording needs.
{ read -r executable; read -r library; read -r numpy; } < <("$python" -c '
import os, sys, sysconfig, numpy
print(os.path.realpath(sys._base_executable))
print(sysconfig.get_path("stdlib"))
print(os.path.dirname(numpy.__path__[0]))')
copy() { # copy DIRECTORY DESTINATION: without tests and what was compiled
    mkdir -p "$2"
    tar -C "$1" --exclude={site-packages,dist-packages,test,tests,idlelib,tkinter,ensurepip,__pycache__,config-*} -cf - \
        "${@:3}" | tar -C "$2" -xf -
}
copy "$library" "$root$library" .
copy "$numpy" "$root/project" numpy $(cd "$numpy" && ls -d numpy.libs 2>/dev/null)
mkdir -p "$root$(dirname "$executable")"
cp "$executable" "$root$executable"
find "$root" -name '*.so*' -print0 | xargs -0 ldd "$executable" 2>/dev/null | grep -o '/[^ ]*\.so[^ :]*' | sort -u |
    while read -r shared; do
        case $shared in "$root"*) continue ;; esac
        mkdir -p "$root$(dirname "$shared")"
        cp -L "$shared" "$root$shared"
    done

arguments=()
for argument; do
    if [ -f "$argument" ]; then
        cp "$argument" "$root/in/"
        argument=/in/$(basename "$argument")
    fi
    arguments+=("$argument")
done
cat >"$root/init" <<INIT
#!/bin/busybox sh
busybox=/bin/busybox
\$busybox mount -t proc proc /proc
\$busybox mount -t sysfs sys /sys
\$busybox mount -t devtmpfs dev /dev
\$busybox mount -t tracefs tracefs /sys/kernel/tracing
export PYTHONPATH=/project PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1
cd /project
$executable -m anonfolio record /tmp/recording.json.gz ${arguments[*]@Q}
\$busybox base64 /tmp/recording.json.gz >/dev/ttyS1
\$busybox sleep 2
\$busybox poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"

# slab_nomerge: a failing fork is checked by counting the kernel's vm_area_structs. One CPU, as on a real machine.
qemu-system-x86_64 -accel tcg -cpu max,la57=off -smp 1 -m 3072 -nodefaults -display none -no-reboot \
    -serial stdio -serial "file:$work/sent" -kernel "$work"/kernel/boot/vmlinuz-* -initrd "$work/initrd" \
    -append "console=ttyS0 quiet panic=-1 slab_nomerge mitigations=off nokaslr tsc=reliable rcupdate.rcu_expedited=1" \
    </dev/null
base64 --decode --ignore-garbage "$work/sent" >"$work/recording"
[ -s "$work/recording" ] || { echo "error: the machine recorded nothing; its console stands above" >&2; exit 1; }
mv "$work/recording" "$out"
