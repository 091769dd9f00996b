#!/usr/bin/env python3
"""Record the stored workloads, and measure this kernel beside them (root; minutes each).

    python tools/workloads.py NAME [--part record|measure] [--rounds N] [--into data/traces]

Programs with forks and without: a make of a small project, a pre-forking server, a database that saves in a forked
child, a C++ build, a Python program with a million objects. Each is written into a folder of its own, the same bytes
every time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from make_c_source import source

from anonfolio.hardware.trace import ALL_SIZES, DATA_DIR, joined, read_measured, write_measured, write_trace
from anonfolio.witness.live.trace import Launch, measure, record

SETTINGS = ((), (2,), (4,), (2, 4), ALL_SIZES, (9,))
ROUNDS = 3

MAKEFILE = """\
PARTS = $(shell seq 1 6)
CFLAGS = -w -O1

program: $(PARTS:%=part%.o) main.o
\t@cc -o $@ $^

%.o: %.c
\t@set -e; name=$$(basename $< .c); \\
\tif test "$$(head -c 2 $<)"; then cc $(CFLAGS) -c -o $@ $<; fi; \\
\tprintf '%s\\n' "$$name" | sed 's/^/built /' >> log
"""

SERVER = '''\
"""A pre-forking server: its children answer from objects that its parent made, and touch their reference counts."""
import os
import socket

OBJECTS, WORKERS, REQUESTS = 120_000, 4, 160
rows = [(number, str(number)) for number in range(OBJECTS)]
workers = []
for _ in range(WORKERS):
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        for other in workers:
            other.close()
        while request := theirs.recv(64):
            first = int(request)
            found = sum(len(name) for number, name in rows[first : first + OBJECTS // 40])
            theirs.send(b"%d" % found)
        os._exit(0)
    theirs.close()
    workers.append(ours)
for request in range(REQUESTS):
    worker = workers[request % WORKERS]
    worker.send(b"%d" % (request * 7919 % (OBJECTS - OBJECTS // 40)))
    worker.recv(64)
for worker in workers:
    worker.close()
for _ in range(WORKERS):
    os.wait()
'''

DATABASE = '''\
"""redis saves in a forked child while a client writes on."""
import contextlib
import os
import socket
import time

KEYS, AT_ONCE = 16_000, 100
arguments = ["redis-server", "--port", "0", "--unixsocket", "socket", "--save", "", "--loglevel", "warning"]
with contextlib.suppress(FileNotFoundError):
    os.unlink("dump.rdb")  # Or it would be loaded first.
server = os.posix_spawnp("redis-server", [*arguments, "--rdb-key-save-delay", "40"], os.environ)
client = socket.socket(socket.AF_UNIX)
while True:
    try:
        client.connect("socket")
        break
    except OSError:
        time.sleep(0.02)
answers = client.makefile("rb")

def said(*words):
    rows = [b"*%d" % len(words)]
    for word in words:
        rows += [b"$%d" % len(word), word]
    return b"\\r\\n".join(rows) + b"\\r\\n"

def say(*words):
    client.sendall(said(*words))

def write(first, last, step, letter):
    numbers = range(first, last, step)
    for at in range(0, len(numbers), AT_ONCE):
        some = numbers[at : at + AT_ONCE]
        client.sendall(b"".join(said(b"SET", b"key:%d" % each, letter * (300 + each % 400)) for each in some))
        for _ in some:
            answers.readline()

write(0, KEYS, 1, b"a")
say(b"BGSAVE")
answers.readline()
write(0, KEYS, 3, b"b")
while b"rdb_bgsave_in_progress:1" in (say(b"INFO", b"persistence"), answers.read(int(answers.readline()[1:]) + 2))[1]:
    time.sleep(0.05)
write(0, KEYS, 5, b"c")
say(b"SHUTDOWN", b"NOSAVE")
os.waitpid(server, 0)
'''

OBJECTS = '''\
"""A million objects of four kinds, half of them let go and made again."""

class Point:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y

points = [Point(number, number + 0.5) for number in range(400_000)]
names = {number: f"name {number}" for number in range(300_000)}
pairs = [(number, -number) for number in range(200_000)]
lists = [[number] for number in range(100_000)]
del points[::2], pairs[::2]
more = [Point(number, -0.5) for number in range(300_000)]
print(sum(point.x for point in more) + len(names) + len(lists) + len(pairs) + len(points))
'''


def template_source() -> str:
    """C++ whose work is in templates: containers and algorithms over many types."""
    lines = ["#include <algorithm>", "#include <functional>", "#include <map>", "#include <string>",
             "#include <tuple>", "#include <unordered_map>", "#include <vector>", ""]  # fmt: skip
    lines += [
        "template <int N> struct tag { int value; bool operator<(const tag &o) const { return value < o.value; } };"
    ]
    for number in range(6):
        lines.append(
            f"int use{number}(int n) {{ "
            f"std::map<tag<{number}>, std::vector<std::tuple<int, std::string, tag<{number}>>>> m;"
            f' for (int i = 0; i < n; i++) m[tag<{number}>{{i}}].emplace_back(i, "x", tag<{number}>{{i}});'
            f" std::unordered_map<int, std::function<int(tag<{number}>)>> f;"
            f" f[n] = [n](tag<{number}> t) {{ return t.value + n; }}; int s = 0;"
            f" for (auto &e : m) {{ std::sort(e.second.begin(), e.second.end()); s += f[n](e.first); }} return s; }}"
        )
    return "\n".join(lines) + "\n"


def write_project(folder: Path) -> None:
    """A C project of seven files and a Makefile whose recipes are shell."""
    (folder / "Makefile").write_text(MAKEFILE)
    for number in range(1, 7):
        text = source(functions=40, seed=number)
        # The parts are linked together.
        (folder / f"part{number}.c").write_text(
            f"#define main part{number}\n" + text.replace("work_", f"work{number}_")
        )
    (folder / "main.c").write_text("int main(void) { return 0; }\n")


@dataclass(frozen=True)
class Workload:
    """What is written, what is run, whether it varies from run to run, and what is asked for its version."""

    write: Callable[[Path], object]
    command: tuple[str, ...]
    versions: tuple[tuple[str, ...], ...]
    clean: tuple[str, ...] = ()
    recordings: int = 1


PYTHON = ("python3", "-I", "-S")
WORKLOADS = {
    "make": Workload(
        write_project, ("make", "-s", "-B"), (("make", "--version"), ("cc", "--version"), ("ld", "--version"))
    ),
    "server": Workload(
        lambda folder: (folder / "server.py").write_text(SERVER), (*PYTHON, "server.py"), (("python3", "--version"),)
    ),
    "database": Workload(
        lambda folder: (folder / "database.py").write_text(DATABASE), (*PYTHON, "database.py"),
        (("redis-server", "--version"), ("python3", "--version")), ("dump.rdb", "socket"), 3,
    ),
    "templates": Workload(
        lambda folder: (folder / "templates.cc").write_text(template_source()),
        ("g++", "-c", "templates.cc"), (("g++", "--version"),),
    ),
    "objects": Workload(
        lambda folder: (folder / "objects.py").write_text(OBJECTS), (*PYTHON, "objects.py"), (("python3", "--version"),)
    ),
}  # fmt: skip


def about(name: str, folder: Path) -> dict[str, str]:
    """Provenance."""
    workload = WORKLOADS[name]
    texts = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    versions = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        for command in workload.versions
    ]
    return {
        "command": " ".join(workload.command),
        "versions": "; ".join(versions),
        "source": f"tools/{Path(__file__).name} {name}, {len(texts)} bytes, sha256 {hashlib.sha256(texts).hexdigest()}",
        "recorded": time.strftime("%Y-%m-%d"),
    }


def main() -> int:
    """Record a workload, or measure some rounds of it and add them to what is stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=WORKLOADS)
    parser.add_argument("--part", choices=("record", "measure"), help="only this (default: both)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each setting (default {ROUNDS})")
    parser.add_argument("--into", type=Path, default=DATA_DIR, help="folder of the traces")
    chosen = parser.parse_args()
    workload = WORKLOADS[chosen.name]

    def tell(said: str) -> None:
        print(said, flush=True)

    with tempfile.TemporaryDirectory() as name, open(os.devnull, "wb") as nowhere:
        launch = Launch(output=nowhere.fileno(), errors=nowhere.fileno())
        folder = Path(name)
        workload.write(folder)
        notes = about(chosen.name, folder)
        if chosen.part != "measure":
            for number in range(1, workload.recordings + 1):
                trace = record(workload.command, folder, notes, launch=launch)
                print(f"{len(trace.processes)} processes, {trace.kernel_faults:,} faults, {len(trace):,} anonymous")
                last = "" if workload.recordings == 1 else f"-{number}"
                write_trace(chosen.into / f"{chosen.name}-{trace.kernel}{last}.npz", trace)
                _clean(folder, workload)
        if chosen.part != "record":
            trace_kernel = next(chosen.into.glob(f"{chosen.name}-*.npz")).stem.removeprefix(f"{chosen.name}-")
            path = chosen.into / f"{chosen.name}-{trace_kernel.split('-')[0]}.json"
            rounds = measure(workload.command, folder, SETTINGS, chosen.rounds, tell, launch)
            before = read_measured(path) if path.exists() else []
            found = [joined([*(one for one in before if one.orders == each.orders), each]) for each in rounds]
            kernel = trace_kernel.split("-")[0]
            write_measured(path, found, kernel=kernel, rounds=len(found[0].faults), **notes)
    return 0


def _clean(folder: Path, workload: Workload) -> None:
    for name in workload.clean:
        (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
