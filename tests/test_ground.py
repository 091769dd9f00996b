"""The ground the project stands on: what is pinned, what is listed, what is imported, what is stored."""

from __future__ import annotations

import ast
import configparser
import gzip
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml
from live_support import PATIENCE_S
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec, Version, VersionSpec

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCKS = {
    name: (ROOT / folder / "requirements.lock").read_text()
    for name, folder in {"lab": ".", "test": "tests", "bench": "benchmarks"}.items()
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def tool_named(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return tool_named("notebooks")


def files() -> list[Path]:
    """What is committed or would be."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    # A container's checkout often belongs to somebody else than who runs the tests.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


# environment.yml


def environment() -> tuple[list[str], list[dict[str, list[str]]]]:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert listed["channels"] == ["conda-forge"]
    lines = listed["dependencies"]
    return [x for x in lines if isinstance(x, str)], [x for x in lines if not isinstance(x, str)]


def test_every_line_of_the_environment_parses() -> None:
    lines, _ = environment()
    assert [str(MatchSpec(line).name.normalized) for line in lines] == ["python", "pip"]


def test_the_environment_takes_its_dependencies_from_the_project() -> None:
    assert environment()[1] == [{"pip": ["-e .[lab]"]}]


def test_the_environments_python_is_one_the_project_supports() -> None:
    spec = next(MatchSpec(line) for line in environment()[0] if line.startswith("python"))
    required = SpecifierSet(PROJECT["project"]["requires-python"])
    candidates = [f"3.{minor}.{micro}" for minor in range(30) for micro in (0, 1, 9, 20)]
    assert spec.version is not None, "any Python at all"
    taken = [v for v in candidates if VersionSpec(spec.version).matches(Version(v))]
    assert taken
    assert [v for v in taken if v not in required] == []


# the locks: what the lab needs, what tests need beyond it, and the peers of the bench, each in one of its own


def pinned(name: str) -> dict[str, list[str]]:
    """What a lock holds: per package its versions, of which each system takes one."""
    pins: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCKS[name], flags=re.MULTILINE):
        pins.setdefault(canonicalize_name(package), []).append(version)
    return pins


def unfit(listed: list[str], pins: dict[str, list[str]]) -> list[str]:
    """What is listed and has no pin, or one that does not fit."""
    wanted = map(Requirement, listed)
    return [
        str(each)
        for each in wanted
        if not (versions := pins.get(canonicalize_name(each.name))) or not all(v in each.specifier for v in versions)
    ]


def test_numpy_is_the_only_dependency() -> None:
    assert [Requirement(line).name for line in PROJECT["project"]["dependencies"]] == ["numpy"]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_host(name: str) -> None:
    assert "://" not in LOCKS[name]
    assert "file:" not in LOCKS[name]


@pytest.mark.parametrize(("name", "least"), [("lab", 50), ("test", 10), ("bench", 1)])
def test_every_pin_has_a_hash(name: str, least: int) -> None:
    pins = re.split(r"\n(?=\S)", LOCKS[name].strip())
    assert len(pins) > least
    assert [p.split()[0] for p in pins if not re.match(r"[\w.-]+==\S+", p) or "--hash=sha256:" not in p] == []


def test_the_locks_have_a_fitting_pin_for_everything_the_project_names() -> None:
    of_lab = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], *EXTRAS["lab"]]
    assert unfit(of_lab, pinned("lab")) == []
    assert unfit(EXTRAS["test"], pinned("lab") | pinned("test")) == []
    assert unfit(EXTRAS["bench"], pinned("bench")) == []
    assert unfit(["numpy>=99", "unheard-of"], pinned("lab")) == ["numpy>=99", "unheard-of"]


def test_the_lab_installs_nothing_that_only_tests_need() -> None:
    only_tests = {canonicalize_name(Requirement(line).name) for line in EXTRAS["test"]} - {"packaging", "pyyaml"}
    assert only_tests & pinned("lab").keys() == set()
    assert pinned("test").keys() & pinned("lab").keys() == set()


@pytest.mark.parametrize("tool", ["notebooks.py", "site.py"])
def test_what_prints_and_executes_notebooks_needs_the_lab_alone(tool: str) -> None:
    tree = ast.parse((ROOT / "tools" / tool).read_text(encoding="utf-8"))
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert others
    assert others <= {"anonfolio", *(Requirement(line).name for line in EXTRAS["lab"])}


def test_the_build_backend_is_locked_as_it_is_required() -> None:
    assert PROJECT["dependency-groups"]["build"] == PROJECT["build-system"]["requires"]


# the package

CORE_ALONE = """
import importlib, pkgutil, sys

allowed = set(sys.stdlib_module_names) | {"numpy", "anonfolio"}

class OnlyNumpy:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, OnlyNumpy())
import anonfolio

for module in pkgutil.walk_packages(anonfolio.__path__, "anonfolio."):
    if not module.name.startswith("anonfolio.view") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if name.startswith("anonfolio.view")))
"""


def test_the_core_imports_with_numpy_alone_and_never_a_view() -> None:
    run = subprocess.run([sys.executable, "-c", CORE_ALONE], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


def test_the_import_guard_guards() -> None:
    code = CORE_ALONE.replace("import anonfolio\n", "import anonfolio\nimport yaml\n")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "blocked: yaml" in run.stderr


# what stands beside the package


def test_hooks_of_a_commit_fetch_nothing_and_ask_what_make_asks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    entries = [hook["entry"].split() for hook in hooks["repos"][0]["hooks"]]
    assert all(hook["language"] == "system" for hook in hooks["repos"][0]["hooks"])
    assert {entry[0].removeprefix(".venv/bin/") for entry in entries} == {"ruff", "mypy", "pytest", "python"}
    assert all((ROOT / word).exists() for entry in entries for word in entry[1:] if word.endswith(".py"))


def test_version_and_licence_are_the_same_wherever_they_stand() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = PROJECT["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["authors"] == project["authors"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'__version__ = "{project["version"]}"' in (ROOT / "anonfolio/__init__.py").read_text(encoding="utf-8")


# the Makefile


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_make_alone_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text().replace("\\\n", ""), flags=re.MULTILINE)
    assert phony is not None
    said = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^make ([\w-]+) +\S", said, flags=re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_make_test_leaves_out_what_takes_long_and_ci_nothing() -> None:
    def runs(target: str) -> list[str]:
        printed = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [line for line in printed.splitlines() if "/pytest " in line]

    quick, whole = runs("test"), runs("sweep")
    assert [line.replace("--sample ", "").split() for line in quick] == [line.split() for line in whole]
    assert [" --sample " in line for line in quick] == [True, True, False]
    assert "\nmake sweep HANDS=1\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.long
def test_of_a_sweep_some_cases_stay_and_of_all_else_that_is_not_long_everything(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  sweep(n): x\n  long: x\n")
    (tmp_path / "test_it.py").write_text("""
import pytest
@pytest.mark.sweep(4)
@pytest.mark.parametrize("a", range(3))
@pytest.mark.parametrize("b", range(3))
def test_many(a, b): pass
@pytest.mark.sweep(4)
def test_one(): pass
@pytest.mark.long
@pytest.mark.parametrize("d", range(2))
def test_long(d): pass
@pytest.mark.parametrize("c", range(5))
def test_other(c): pass
""")

    def collected(*options: str) -> list[str]:
        without = ["-p", "no:nbval", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-q", "--collect-only", *without, *options]
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        # Here the order is asked for, whatever the order of the run that this is part of.
        env = os.environ | {"PYTHONPATH": path, "ANONFOLIO_ORDER": ""}
        run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        return [line for line in run.stdout.splitlines() if "::" in line]

    everything, sampled = collected(), collected("--sample")
    assert (len(everything), len(sampled)) == (17, 9)
    assert sampled == [name for name in everything if name in sampled]
    assert len([name for name in sampled if "test_many" in name]) == 3
    assert not [name for name in sampled if "test_long" in name]


# what is committed

# Where this checkout and its interpreter live, homes in general, and hosts that packages come from.
PLACES = "|".join(re.escape(str(place)) for place in (ROOT, Path(sys.base_prefix)) if len(place.parts) > 2)
HOMES = r"(?<![\w.~])/(?:home|root|Users|work)/\w"
HOSTS = r"\bpy" + r"pi\.org|python" + r"hosted\."
FOLDERS = [f"/{name}/" for name in ("home", "root", "Users", "work")]
MARKS = [str(ROOT), sys.base_prefix, *FOLDERS, "py" + "pi.org", "python" + "hosted."]
MACHINE = re.compile("|".join(filter(None, (PLACES, HOMES, HOSTS))))


def test_no_file_names_a_machine() -> None:
    naming = []
    for path in files():
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        text = content.decode("utf-8", errors="ignore")
        # Most files name nothing that looks like it, which is sooner seen without the expression.
        if any(mark in text for mark in MARKS) and (found := MACHINE.search(text)):
            naming.append(f"{path.relative_to(ROOT)}: {found[0]}")
    assert naming == []


# breaks on purpose


def test_each_break_replaces_a_text_that_stands_once_and_tests_that_are_there_run() -> None:
    mutants = tool_named("mutants")
    broken = mutants.read_mutants(ROOT / "tools" / "mutants.txt")
    assert broken
    assert list(mutants.stale(broken)) == []
    twice, same = broken[0]._replace(text="\n"), broken[0]._replace(broken=broken[0].text)
    assert len(list(mutants.stale([twice, same]))) == 2
    assert [name for name in mutants.TESTS if not (ROOT / "tests" / name).is_file()] == []
    assert {name for about in mutants.ABOUT.values() for name in about} <= {*mutants.TESTS}
    for file, _, name in {mutant.test.partition("[")[0].partition("::") for mutant in broken if mutant.test}:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{name}"


@pytest.mark.sweep(6)
@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_a_tool_that_is_asked_what_it_does_says_so_and_does_nothing(path: Path) -> None:
    # Orders was at work for minutes, and wrote its file; mutants ran all tests.
    run = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"usage: {path.name} ")


@pytest.mark.sweep(6)
@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((ROOT / "tools").glob("*.py"))
        if re.search(r"^(from|import) anonfolio", path.read_text(), re.M)
    ],
    ids=lambda path: path.stem,
)
def test_a_tool_asks_the_library_that_lies_beside_it(path: Path, tmp_path: Path) -> None:
    """And not the one that some other checkout has installed."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "anonfolio").mkdir()
    shutil.copy(path, tmp_path / "tools")
    shutil.copy(ROOT / "tools" / "make_c_source.py", tmp_path / "tools")
    (tmp_path / "anonfolio" / "__init__.py").write_text("raise SystemExit('beside it')")
    away = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, tmp_path / "tools" / path.name, "--help"],
        cwd=tmp_path.parent,
        env=away,
        capture_output=True,
        text=True,
    )
    assert run.stderr == "beside it\n"


def test_a_live_test_that_waits_in_vain_says_so_before_make_ends_it() -> None:
    (limit_s,) = re.findall(r"faulthandler_timeout=(\d+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert int(limit_s) > 4 * PATIENCE_S


def test_a_word_that_no_break_has_is_told_before_any_test_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool_named("mutants").main(["no such break", "nor this"]) == 2
    assert capsys.readouterr().out == "no mutant's name has no such break or nor this in it\n"


# notebooks


@pytest.mark.sweep(15)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebooks_are_executed_and_normal(tool: ModuleType, path: Path) -> None:
    assert tool.check(path) is None


def test_nbval_and_the_tool_forget_the_same_addresses(tool: ModuleType) -> None:
    sanitize = configparser.RawConfigParser()
    sanitize.read(ROOT / "tests" / "nbval-sanitize.cfg")
    assert sanitize.sections() == ["regex1"]
    assert sanitize["regex1"]["regex"] == tool.ADDRESS.pattern
    assert tool.clean_text("<A at 0x7f00dead>") == "<A at 0x000000000000>"
    assert tool.clean_text("SIGSEGV at 0x7f00dead000") == "SIGSEGV at 0x7f00dead000"


STEPPER = """
import sys, warnings
import anywidget, ipywidgets, traitlets

class Stepper(anywidget.AnyWidget):
    _esm = "export default { render({ model, el }) { el.textContent = model.get('frames')[0]; } }"
    frames = traitlets.List(["one", "two"]).tag(sync=True)

    def __repr__(self):
        return "Stepper: one"

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return data | {"image/svg+xml": "<svg/>", "text/plain": repr(self)}, metadata

Stepper()
"""
SLIDERS = """
a, b = ipywidgets.IntSlider(description="a"), ipywidgets.IntSlider(description="b")
unseen = ipywidgets.Text("unseen")
sharing = [ipywidgets.HBox([a]) for _ in range(4)]  # never shown, though it names one that is
link = ipywidgets.jslink((a, "value"), (b, "value"))
ipywidgets.VBox([b, a])
"""
NOISE = """
for i in range(3):
    print(i, flush=True)
    print("careful", file=sys.stderr, flush=True)
warnings.warn("here", stacklevel=1)
object()
"""


@pytest.fixture
def throwaway(tmp_path: Path) -> Path:
    code = (STEPPER, SLIDERS, NOISE, "1 / 0", "1 / 0")
    cells = [new_markdown_cell("# A notebook"), *map(new_code_cell, code)]
    for cell in cells[-2:]:
        cell.metadata = {"tags": ["raises-exception"], "collapsed": True}
    path = tmp_path / "throwaway.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.mark.long
def test_two_executions_store_the_same_bytes(tool: ModuleType, throwaway: Path) -> None:
    assert "never executed" in tool.check(throwaway)
    assert tool.execute(throwaway) is None
    first = throwaway.read_bytes()
    assert tool.check(throwaway) is None
    assert tool.execute(throwaway) is None
    assert throwaway.read_bytes() == first

    nb = nbformat.read(throwaway, as_version=4)
    stepper, box = [cell.outputs[-1].data for cell in nb.cells[1:3]]
    assert stepper["text/plain"] == "Stepper: one"
    assert stepper["image/svg+xml"] == "<svg/>"
    state = nb.metadata.widgets[tool.STATE].state
    assert state[stepper[tool.VIEW].model_id].state.frames == ["one", "two"]
    inside = tool.references(state[box[tool.VIEW].model_id].state.children)
    children = [state[model] for model in inside]
    assert [child.state.description for child in children] == ["b", "a"]
    kinds = [model.model_name for model in state.values()]
    assert "LinkModel" in kinds
    assert "TextModel" not in kinds
    assert "HBoxModel" not in kinds
    for output, place in [(o, f"cell {n}") for n, c in enumerate(nb.cells[3:], 3) for o in c.outputs]:
        assert str(throwaway.parent) not in str(output), place
        assert "ipykernel_" not in str(output), place


def test_a_cell_keeps_its_id_whatever_it_says(tool: ModuleType, throwaway: Path) -> None:
    nb = nbformat.read(throwaway, as_version=4)
    before = [cell.id for cell in nb.cells]
    nb.cells[0].source = "# Another title"
    nb.cells.insert(1, new_markdown_cell("A cell between"))
    after = [cell.id for cell in nbformat.reads(tool.normalise(nb), as_version=4).cells]
    assert after[:1] + after[2:] == before


def test_a_failing_cell_leaves_the_file_as_it_was(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "failing.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert "ZeroDivisionError" in tool.execute(path)
    assert path.read_bytes() == before


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_lab_signs_every_notebook_before_it_opens_them() -> None:
    """JupyterLab hides the stored pictures of a notebook that nobody has signed."""
    told = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    signs, opens = told.find("jupyter trust"), told.find("jupyter lab ")
    assert 0 <= signs < opens
    assert all(f"notebooks/{path.name}" in told[signs:opens] for path in NOTEBOOKS)
