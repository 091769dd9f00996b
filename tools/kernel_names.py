"""Which kernel names, of those that this project mentions, stand in which release's sources: data/kernel/names.json.

    python tools/kernel_names.py 6.12=FOLDER [RELEASE=FOLDER ...]

Each folder holds the unpacked sources of one release; one that is not given keeps what the file says of it. Names only:
what stands between backticks in notebooks, exercises, docstrings and documents, and what faults say that was asked.
tests/test_claims.py holds what is said of a release against the file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "data" / "kernel" / "names.json"
READ = ("mm", "kernel", "fs", "include", "arch/x86", "arch/arm64", "io_uring")
"""Where memory management stands. (tools/, drivers/ and other architectures hold none of these names first.)"""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{3,}")
QUOTED = re.compile(r"`+([^`\n]+)`+")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def texts() -> Iterator[str]:
    """All that says something about the kernel: cells of notebooks, the library, documents."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield from ("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    for pattern in ("anonfolio/**/*.py", "anonfolio/**/*.toml", "docs/*.md", "data/*.md", "*.md"):
        yield from (path.read_text() for path in sorted(ROOT.glob(pattern)))


def asked() -> set[str]:
    """What the kernel is said to ask: the names in the strings that rules and fault paths hand on."""
    found = set()
    for path in (ROOT / "anonfolio" / "kernel").glob("*.py"):
        for string in re.findall(r'"([A-Za-z_][^"\n]*)"', path.read_text()):
            found.update(name for name in NAME.findall(string) if "_" in name or name.startswith("Page"))
    return found


def mentioned() -> set[str]:
    """Every name between backticks that could be the kernel's: with an underscore, or a page flag's."""
    quoted = (name for text in texts() for span in QUOTED.findall(text) for name in NAME.findall(span))
    return {name for name in quoted if "_" in name or name.startswith("Page")} | asked()


def names_in(folder: Path, wanted: set[str]) -> set[str]:
    """Those of `wanted` that stand as a word in the sources, comments apart."""
    found: set[str] = set()
    for part in READ:
        for path in (folder / part).rglob("*"):
            if path.suffix in (".c", ".h", ".S") or path.name.startswith("Kconfig"):
                text = path.read_text(errors="replace")
                found |= wanted & set(NAME.findall(COMMENT.sub(" ", text)))
    return found


def main() -> int:
    """Write what the given releases hold; 2 for what is no release and folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", nargs="*")
    given = dict(argument.partition("=")[::2] for argument in parser.parse_args().release)
    good = (re.fullmatch(r"\d+\.\d+", release) and Path(at, "mm").is_dir() for release, at in given.items())
    if not given or not all(good):
        print("give releases with their sources, such as 6.12=linux-6.12 (a folder that has mm/)", file=sys.stderr)
        return 2
    wanted = mentioned()
    kept = json.loads(STORED.read_text())["releases"] if STORED.exists() else {}
    for release, folder in given.items():
        kept[release] = sorted(names_in(Path(folder), wanted))
        print(f"{release}: {len(kept[release])} of {len(wanted)} names")
    kept = {release: kept[release] for release in sorted(kept, key=lambda one: tuple(map(int, one.split("."))))}
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(json.dumps({"releases": kept}, indent=0) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
