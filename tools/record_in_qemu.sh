#!/usr/bin/env bash
# Record on another kernel, in emulation, the way the recordings of other kernels in data/ were made.
#
#   tools/record_in_qemu.sh KERNEL OUT.json.gz ARGUMENT…
#
# KERNEL is a Debian package for amd64, linux-image-* (up to 6.18) or linux-binary-* (from 6.19 on), or a bzImage of
# one's own, which wants CONFIG_TRANSPARENT_HUGEPAGE, IO_URING, FTRACE_SYSCALLS and an initrd. The small "cloud"
# packages have all that is needed, and apt-get download fetches one. The arguments are those of `python -m anonfolio
# record` after the file: scenarios, recordings to do again, or --random N --seed S --kind K.
# A package for arm64, or ARCH=arm64 with an Image of one's own, is recorded with raw page-table entries on CPU=neoverse-n1
# (the default) or cortex-a72, which marks no entry accessed or dirty. That needs qemu-system-arm, pip, and sources of apt
# that have arm64 (dpkg --add-architecture arm64, apt-get update), from which Python and its libraries are fetched.
# Needs qemu-system-x86, busybox-static, cpio and .venv (make lab or make test makes it); no root. The machine is made
# on the spot from this tree, .venv's Python and numpy, and vanishes; IMAGE=FILE keeps its root, which takes some
# seconds to make, for the next call. Booting takes about ten seconds, a program about one.
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2; }
project=$(cd "$(dirname "$0")/.." && pwd)
python=$project/.venv/bin/python
kernel=$1 out=$2
shift 2
[ -r "$kernel" ] || { echo "error: $kernel: there is no such kernel" >&2; exit 2; }
arch=${ARCH:-$(dpkg-deb -f "$kernel" Architecture 2>/dev/null || echo amd64)}
case $arch in
amd64) qemu=qemu-system-x86_64 ;;
arm64) qemu=qemu-system-aarch64 ;;
*) echo "error: $kernel is for $arch; amd64 and arm64 can be recorded" >&2; exit 2 ;;
esac
for tool in "$qemu" busybox cpio dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing" >&2; exit 2; }
done
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

# Python of the same version for arm64, from packages, and numpy from its wheel.
make_arm64_image() { # make_arm64_image FILE
    local root=$work/root version name
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    mkdir -p "$root"/{bin,dev,in,proc,project,sys,tmp} "$work/packages"
    for name in "python$version-minimal" "libpython$version-minimal" "libpython$version-stdlib" busybox-static libc6 \
        libstdc++6 libgcc-s1 zlib1g libexpat1 libffi8 libcrypt1; do
        (cd "$work/packages" && apt-get download "$name:arm64" >/dev/null 2>&1) || {
            echo "error: apt has no $name:arm64: dpkg --add-architecture arm64, sources that have it, apt-get update" >&2
            exit 2
        }
    done
    for name in "$work"/packages/*.deb; do
        dpkg-deb -x "$name" "$root"
    done
    # Where a package still says /lib, that is /usr/lib.
    if [ -d "$root/lib" ]; then cp -a "$root/lib/." "$root/usr/lib/" && rm -rf "$root/lib"; fi
    ln -sfn usr/lib "$root/lib"
    # Its hook for initramfs-tools has the same name.
    mv "$(find "$root/bin" "$root/usr/bin" -name busybox -type f -print -quit)" "$root/bin/busybox.arm64"
    mv "$root/bin/busybox.arm64" "$root/bin/busybox"
    rm -rf "$root"/usr/share "$root"/etc
    "$python" -m pip download -q --no-deps --only-binary=:all: -d "$work/packages" --python-version "$version" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        "numpy==$("$python" -c 'import numpy; print(numpy.__version__)')"
    "$python" -m zipfile -e "$work"/packages/numpy*.whl "$root/project"
    find "$root/project" -name tests -type d -prune -exec rm -rf {} +
    copy "$project" "$root/project" anonfolio
    "$python" -m compileall -qq --invalidation-mode unchecked-hash -s "$root" "$root/project" "$root/usr/lib/python$version" || true
    ln -s "/usr/bin/python$version" "$root/bin/python"
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
{ \$busybox echo; \$busybox echo =recording=; \$busybox base64 /tmp/recording.json.gz; \$busybox echo =end=; } >$sends
\$busybox sleep 1
\$busybox poweroff -f
INIT
    chmod +x "$1/init"
}

bzimage=$(find_bzimage "$kernel")
[ -n "$bzimage" ] || { echo "error: $kernel holds no vmlinuz" >&2; exit 2; }
sends=/dev/ttyS1
[ "$arch" = amd64 ] || sends=/dev/ttyAMA0
[ -s "$image" ] || if [ "$arch" = amd64 ]; then make_image "$image"; else make_arm64_image "$image"; fi
make_init "$work/first" "$@"
{ cat "$image"; pack "$work/first"; } >"$work/initrd"

# slab_nomerge: a failing fork is checked by counting the kernel's vm_area_structs. no_timer_check: on a loaded host the
# timer seems dead at boot. One CPU, as on a real machine. No AVX: with qemu 7.2's numpy sorts wrongly.
if [ "$arch" = amd64 ]; then
    qemu-system-x86_64 -accel tcg -cpu max,la57=off,avx=off -smp 1 -m 3072 -nodefaults -display none -no-reboot \
        -serial stdio -serial "file:$work/sent" -kernel "$bzimage" -initrd "$work/initrd" \
        -append "console=ttyS0 quiet panic=-1 slab_nomerge mitigations=off nokaslr tsc=reliable no_timer_check rcupdate.rcu_expedited=1" \
        </dev/null
else
    # One serial line: what is sent comes between marks.
    qemu-system-aarch64 -M virt -cpu "${CPU:-neoverse-n1}" -accel tcg -smp 1 -m 2048 -nodefaults -display none -no-reboot \
        -serial stdio -kernel "$bzimage" -initrd "$work/initrd" \
        -append "console=ttyAMA0 quiet panic=-1 slab_nomerge mitigations=off nokaslr rcupdate.rcu_expedited=1" \
        </dev/null | tee "$work/sent" | sed '/^=recording=/,/^=end=/d'
fi
sed -n '/^=recording=/,/^=end=/{//!p}' "$work/sent" | base64 --decode --ignore-garbage >"$work/recording"
[ -s "$work/recording" ] || { echo "error: the machine recorded nothing; its console stands above" >&2; exit 1; }
mv "$work/recording" "$out"
