"""What all tests share: hypothesis profiles, and a real browser for those that need one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from browser_support import Lab
    from playwright.sync_api import Browser, Page

# jsonschema builds a parser of IRIs where it can be imported, which takes three seconds of each process that imports
# nbformat; no notebook has an IRI to check.
sys.modules.setdefault("rfc3987_syntax", None)

# The same examples on every machine: a red run is red for everybody.
# HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=int(os.environ.get("ANONFOLIO_EXAMPLES", "5000")))
settings.register_profile("sample", settings.get_profile("ci"), max_examples=34)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--sample") and PROFILE == "ci":
        settings.load_profile("sample")
    # A shell starts what runs in the background with Ctrl-C ignored, and that is inherited: here interrupts are tested.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample", action="store_true",
        help="of a test marked sweep(n) one case in n, always the same ones, of a property a third, and no long one",
    )  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--sample"):
        sample(config, items)
    if seed := os.environ.get("ANONFOLIO_ORDER"):
        shuffle(items, seed)


def sample(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave of each test marked `sweep(n)` one case in n, at least one, and none marked `long`.

    `make test` has minutes; `make sweep` runs all.
    """
    swept: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sweep") and not item.get_closest_marker("long"):
            swept.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out = {item for item in items if item.get_closest_marker("long")}
    for name, cases in swept.items():
        marker = cases[0].get_closest_marker("sweep")
        assert marker
        (share,) = marker.args
        # Drawn, for every n-th of a product of parameters would be always the same of one of them.
        kept = random.Random(name).sample(cases, -(-len(cases) // share))
        left_out.update(set(cases).difference(kept))
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def shuffle(items: list[pytest.Item], seed: str) -> None:
    """ANONFOLIO_ORDER=SEED: files in another order, and tests in each, as `make shuffle` has them."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(str(item.path), []).append(item)
    # Seeded with the text: each worker must come to the same order.
    source = random.Random(seed)
    for tests in files.values():
        source.shuffle(tests)
    order = [*files.values()]
    source.shuffle(order)
    items[:] = [item for tests in order for item in tests]


CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        message = f"no browser on the PATH (looked for {', '.join(CHROMIUM)})"
        if os.environ.get("ANONFOLIO_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import expect, sync_playwright

    # As long as all else is waited for: 5 s, where one says nothing, are few on a busy machine.
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses root, and a container's /dev/shm is too small for it.
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def kept(browser: Browser) -> Iterator[Page]:
    """One page for the tests of a file, one after the other: of its own it would cost each half of its time."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages of the site."""
    from site_support import NOTEBOOKS, tool

    folder = tmp_path_factory.mktemp("site")
    tool.build(NOTEBOOKS, folder)
    return folder


@pytest.fixture(scope="session")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One JupyterLab for all tests that need one; after `browser`, so that it skips where there is none."""
    from browser_support import jupyterlab

    with jupyterlab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab
