#!/usr/bin/env bash
# Record on another kernel, in emulation, the way the recordings of other kernels in data/ were made.
#
#   tools/record_in_qemu.sh KERNEL OUT.json.gz ARGUMENT…
#
# KERNEL is a Debian package for amd64, linux-image-* (up to 6.18) or linux-binary-* (from 6.19 on), or a bzImage of
# one's own, which wants CONFIG_TRANSPARENT_HUGEPAGE, IO_URING, FTRACE_SYSCALLS and an initrd. The small "cloud"
# packages have all that is needed, and apt-get download fetches one. The arguments are those of `python -m anonfolio
# record` after the file: scenarios, recordings to do again, or --random N --seed S --kind K.
# Needs qemu-system-x86, busybox-static, cpio and .venv (make lab or make test makes it); no root. The machine is made
# on the spot from this tree, .venv's Python and numpy, and vanishes; IMAGE=FILE keeps its root, which takes some
# seconds to make, for the next call. Booting takes about ten seconds, a program about one.
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for tool in qemu-system-x86_64 busybox cpio dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing" >&2; exit 2; }
done
project=$(cd "$(dirname "$0")/.." && pwd)
python=$project/.venv/bin/python
kernel=$1 out=$2
shift 2
[ -r "$kernel" ] || { echo "error: $kernel: there is no such kernel" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
image=${IMAGE:-$work/image}

# The image stands in boot/ or, from 7.2 on, beside its modules.
find_bzimage() { # find_bzimage KERNEL: the path of its bzImage
    case $(head -c 7 "$1" | tr -d '\0') in
    '!<arch>')
        dpkg-deb -x "$1" "$work/kernel"
        find "$work/kernel" -type f -name 'vmlinuz*' -print -quit ;;
    *) realpath "$1" ;;
    esac
}

pack() { # pack DIRECTORY: as the kernel unpacks it; several such archives may follow each other
    (cd "$1" && find . | cpio -o -H newc --quiet)
}

copy() { # copy DIRECTORY DESTINATION WHAT…: without tests and what was compiled
    mkdir -p "$2"
    tar -C "$1" --exclude={site-packages,dist-packages,test,tests,idlelib,tkinter,ensurepip,__pycache__,config-*} -cf - \
        "${@:3}" | tar -C "$2" -xf -
}

# Python as it lies here, at the same places, less what no recording needs.
make_image() { # make_image FILE
    local root=$work/root executable library numpy
    mkdir -p "$root"/{bin,dev,in,proc,project,sys,tmp}
    cp "$(command -v busybox)" "$root/bin/busybox"
    { read -r executable; read -r library; read -r numpy; } < <("$python" -c '
import os, sys, sysconfig, numpy
print(os.path.realpath(sys._base_executable))
print(sysconfig.get_path("stdlib"))
print(os.path.dirname(numpy.__path__[0]))')
    copy "$project" "$root/project" anonfolio
    copy "$library" "$root$library" .
    copy "$numpy" "$root/project" numpy $(cd "$numpy" && ls -d numpy.libs 2>/dev/null)
    # Compiled here: there it takes most of a minute, at every boot. Some templates in the library are no Python.
    "$python" -m compileall -qq --invalidation-mode unchecked-hash -s "$root" "$root/project" "$root$library" || true
    mkdir -p "$root$(dirname "$executable")"
    cp "$executable" "$root$executable"
    ln -s "$executable" "$root/bin/python"
    find "$root" -name '*.so*' -print0 | xargs -0 ldd "$executable" 2>/dev/null | grep -o '/[^ ]*\.so[^ :]*' | sort -u |
        while read -r shared; do
            case $shared in "$root"*) continue ;; esac
            mkdir -p "$root$(dirname "$shared")"
            cp -L "$shared" "$root$shared"
        done
    pack "$root" >"$1.part"
    mv "$1.part" "$1"
    rm -rf "$root"
}

make_init() { # make_init DIRECTORY ARGUMENT…: what is done there, and the files that it is given
    local arguments=() argument
    mkdir -p "$1/in"
    for argument in "${@:2}"; do
        if [ -f "$argument" ]; then
            cp "$argument" "$1/in/"
            argument=/in/$(basename "$argument")
        fi
        arguments+=("$argument")
    done
    cat >"$1/init" <<INIT
#!/bin/busybox sh
busybox=/bin/busybox
\$busybox mount -t proc proc /proc
\$busybox mount -t sysfs sys /sys
\$busybox mount -t devtmpfs dev /dev
\$busybox mount -t tracefs tracefs /sys/kernel/tracing
# DAMON's statistics, on by default in some kernels, clear accessed bits.
damon=/sys/module/damon_stat/parameters/enabled
[ ! -w \$damon ] || echo N >\$damon
export PYTHONPATH=/project PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1
cd /project
\$(\$busybox readlink -f /bin/python) -m anonfolio record /tmp/recording.json.gz ${arguments[*]@Q}
\$busybox base64 /tmp/recording.json.gz >/dev/ttyS1
\$busybox sleep 1
\$busybox poweroff -f
INIT
    chmod +x "$1/init"
}

bzimage=$(find_bzimage "$kernel")
[ -n "$bzimage" ] || { echo "error: $kernel holds no vmlinuz" >&2; exit 2; }
[ -s "$image" ] || make_image "$image"
make_init "$work/first" "$@"
{ cat "$image"; pack "$work/first"; } >"$work/initrd"

# slab_nomerge: a failing fork is checked by counting the kernel's vm_area_structs. no_timer_check: on a loaded host the
# timer seems dead at boot. One CPU, as on a real machine. No AVX: with qemu 7.2's numpy sorts wrongly.
qemu-system-x86_64 -accel tcg -cpu max,la57=off,avx=off -smp 1 -m 3072 -nodefaults -display none -no-reboot \
    -serial stdio -serial "file:$work/sent" -kernel "$bzimage" -initrd "$work/initrd" \
    -append "console=ttyS0 quiet panic=-1 slab_nomerge mitigations=off nokaslr tsc=reliable no_timer_check rcupdate.rcu_expedited=1" \
    </dev/null
base64 --decode --ignore-garbage "$work/sent" >"$work/recording"
[ -s "$work/recording" ] || { echo "error: the machine recorded nothing; its console stands above" >&2; exit 1; }
mv "$work/recording" "$out"
