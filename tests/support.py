"""What several test files need: a machine's state as one value, one with a folio, hands on a stepper, a JupyterLab."""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import anonfolio as af
from anonfolio.mm import Mm, Vma

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


def freeze(thing: Any) -> Any:
    """Everything a machine holds, visible or not, as a value that can be compared: nothing is left out by name."""
    return _freeze(thing, {})


def _freeze(thing: Any, seen: dict[int, int]) -> Any:
    if isinstance(thing, np.ndarray):
        return ("array", thing.dtype.str, thing.shape, thing.tobytes())
    if isinstance(thing, (list, tuple, dict)) and _plain(thing):
        if isinstance(thing, defaultdict):
            # Counters that were only looked at hold zeros; they say the same as if they were absent.
            return tuple(sorted(item for item in thing.items() if item[1]))
        return tuple(sorted(thing.items())) if isinstance(thing, dict) else tuple(thing)
    if isinstance(thing, dict):
        return ("dict", tuple((_freeze(key, seen), _freeze(value, seen)) for key, value in thing.items()))
    if isinstance(thing, (set, frozenset)):
        return ("set", tuple(sorted(map(repr, thing))))
    if isinstance(thing, (list, tuple)):
        return ("list", tuple(_freeze(item, seen) for item in thing))
    if isinstance(thing, random.Random):
        return ("random", thing.getstate())
    if thing is None or isinstance(thing, (int, float, str, bool, range, np.generic)):
        return thing
    if id(thing) in seen:
        return ("again", seen[id(thing)])
    seen[id(thing)] = len(seen)
    names: Iterable[str] = getattr(thing, "__dict__", None) or getattr(type(thing), "__slots__", ())
    if isinstance(thing, Mm):
        # The machine's memory is frozen once, on its own: it is the same for all.
        names = set(names) - {"memory"}
    return (type(thing).__name__, tuple((name, _freeze(getattr(thing, name), seen)) for name in sorted(names)))


def _plain(thing: Any) -> bool:
    kinds = set(map(type, thing.values() if isinstance(thing, dict) else thing))
    return kinds <= {int, float, str, bool}


def machine_with_folio(
    policy: af.Policy | str = af.LINUX_6_15, pages: int = 16, **knobs: Any
) -> tuple[af.Machine, af.Process]:
    """One process with a mapping of `pages`, every page written with its number plus one."""
    machine = af.Machine(policy, **knobs)
    process = machine.spawn()
    process.mmap(pages)
    for page in range(pages):
        process.write(page, (page + 1) % 256)
    return machine, process


def folio(machine: af.Machine, process: af.Process, vpn: int) -> int:
    """The number of the folio that a page maps."""
    assert process.mm.pte[vpn], f"page {vpn} is not mapped"
    return int(machine.memory.folio_of[process.mm.pfn[vpn]])


def layout(process: af.Process) -> list[tuple[int, int]]:
    """The mappings of a process as (first page, end)."""
    return [(vma.start, vma.end) for vma in process.mm.vmas]


def vma_at(process: af.Process, vpn: int) -> Vma:
    """The mapping that contains a page, which must be one."""
    vma = process.mm.find_vma(vpn)
    assert vma is not None
    return vma


# --- a stepper in a browser -----------------------------------------------------------------------------------------


def walk(stepper: Locator, *, mouse: bool = True) -> None:
    """Step a stepper with its buttons, then with the keyboard: each gets where it says, and the picture changes.

    Without the mouse its buttons are clicked by script, which is ten times faster.
    """
    last = int(stepper.get_by_role("slider").get_attribute("max") or 0)
    assert last > 0

    def at() -> int:
        return int(stepper.get_attribute("data-step") or -1)

    drawn = {}
    for name, step in (("First", 0), ("Next", 1), ("Last", last), ("Back", last - 1)):
        button = stepper.get_by_role("button", name=name, exact=True)
        if mouse:
            # At an end a button keeps the focus and says that it does nothing: a click must not wait for it.
            button.click(force=True)
        else:
            button.dispatch_event("click")
        assert at() == step, name
        show_me = stepper.locator(".afs-answers:not([hidden]) button").last
        if show_me.count():
            show_me.dispatch_event("click")  # it asks, and shows the step before until it is answered
        drawn[step] = stepper.locator(".afs-view").first.inner_html()
    assert len(set(drawn.values())) == len(drawn)
    stepper.focus()
    for key, step in (("Home", 0), ("ArrowRight", 1), ("End", last), ("ArrowLeft", last - 1)):
        stepper.page.keyboard.press(key)
        assert at() == step, key


FOCUSED = """() => {
  const node = document.activeElement, style = getComputedStyle(node);
  return [Boolean(node.closest(".afs")), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
}"""


def tab_through(page: Page, most: int = 120) -> int:
    """Press Tab until a stepper is reached and left again: its number of stops. At each an outline shows the focus."""
    inside = 0
    for _ in range(most):
        page.keyboard.press("Tab")
        within, outlined = page.evaluate(FOCUSED)
        if inside and not within:
            return inside
        inside += within
        assert outlined or not within
    raise AssertionError(f"no way into a stepper and out again with {most} times Tab")


# --- JupyterLab -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: where it answers, what it serves."""

    address: str
    root: Path
    token: str

    def page(self, path: str = "") -> str:
        """The address of the page that shows a notebook, or of the empty one."""
        return f"{self.address}/lab{f'/tree/{path}' if path else ''}?token={self.token}"

    def serves(self, url: str) -> bool:
        """Whether a request stays on this machine."""
        return url.startswith((self.address, self.address.replace("http", "ws", 1), "data:", "blob:"))


@contextmanager
def jupyterlab(folder: Path) -> Iterator[Lab]:
    """A JupyterLab of our own on a free port, with nothing of the user's settings and `folder`/root to serve."""
    root = folder / "root"
    root.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = Lab(f"http://127.0.0.1:{port}", root, secrets.token_hex(16))
    places = ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME", "JUPYTERLAB_WORKSPACES", "JUPYTERLAB_SETTINGS")
    own = {f"{place}_DIR": str(folder / place) for place in places}
    environment = {**os.environ, **own, "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={root}", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={lab.token}", "--allow-root",
        "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.check_for_updates_class="
        "jupyterlab.NeverCheckForUpdate", "--ServerApp.terminals_enabled=False",
    ]  # fmt: skip
    log = folder / "lab.log"
    with log.open("wb") as said:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"{lab.address}/api/status?token={lab.token}", server, log)
            yield lab
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not answer:\n{log.read_text(errors='replace')[-3000:]}")
