"""Execute notebooks and keep what they store in one normal form.

    python tools/notebooks.py execute   [FILE ...]   run, store the outputs and the widgets' state, normalise
    python tools/notebooks.py normalise [FILE ...]   normalise what is stored
    python tools/notebooks.py check     [FILE ...]   fail if a file is not executed or not normal

Without files: every notebook in notebooks/. In normal form two executions of the same notebook are the
same bytes, so that a diff shows what changed and nothing else. What stands between a question and its comparison is
stored closed (`anonfolio.lesson.spoilers`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from anonfolio.lesson.spoilers import spoilers

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
TIMEOUT = 120

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
REFERENCE = "IPY_MODEL_"

CELL_METADATA = ("jupyter", "slideshow", "tags")
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}

# Only what Python's own `repr` ends with: any other hexadecimal number is an address of the model ("SIGSEGV
# at 0x..."), and those are compared. tests/nbval-sanitize.cfg says the same to nbval.
ADDRESS = re.compile(r"(?<= at )0x[0-9a-fA-F]{6,16}(?=>)")
CELL_FILE = re.compile(r"[^\s\"'(]*/ipykernel_\d+/\d+\.py")


def clean_text(text: str) -> str:
    text = ADDRESS.sub("0x000000000000", text)
    text = CELL_FILE.sub("<cell>", text)
    text = text.replace(f"{ROOT}/", "")
    if ROOT.is_relative_to(Path.home()):  # IPython shortens what lies there
        text = text.replace(f"~/{ROOT.relative_to(Path.home())}/", "")
    return text


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [map_strings(item, change) for item in value]
    return value


def references(value: Any) -> Iterator[str]:
    """The models that a model's state names, in an order that does not depend on their ids."""
    if isinstance(value, str) and value.startswith(REFERENCE):
        yield value.removeprefix(REFERENCE)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from references(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def shown_models(nb: Any) -> Iterator[Any]:
    """The widget views among the outputs, in order of appearance."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if VIEW in output.get("data", {}):
                yield output["data"][VIEW]


def normalise_widgets(nb: Any) -> None:
    stored = nb.metadata.get("widgets", {}).get(STATE)
    state = stored["state"] if stored else {}
    order: dict[str, None] = {}

    def reach(model: str) -> None:
        if model not in order:
            order[model] = None
            for other in references(state.get(model, {})):
                reach(other)

    for view in shown_models(nb):
        reach(view["model_id"])
    # A link is named by nobody but joins two that are shown; without it a static page's widgets fall apart. What names
    # one alone is a widget that was never shown, and that shares its program with those that were.
    number = {REFERENCE + model: str(n) for n, model in enumerate(order)}
    links = {
        model: json.dumps(map_strings(state[model], lambda text: number.get(text, text)), sort_keys=True)
        for model in state
        if model not in order and sum(other in order for other in references(state[model])) > 1
    }
    for model in sorted(links, key=links.__getitem__):
        reach(model)

    new = {model: f"{n:032x}" for n, model in enumerate(order, start=1)}

    def rename(text: str) -> str:
        model = text.removeprefix(REFERENCE)
        return REFERENCE + new[model] if text.startswith(REFERENCE) and model in new else clean_text(text)

    for view in shown_models(nb):
        view["model_id"] = new[view["model_id"]]
    nb.metadata.pop("widgets", None)
    kept = {new[model]: map_strings(state[model], rename) for model in order if model in state}
    if kept:
        nb.metadata["widgets"] = {STATE: {"state": kept, "version_major": 2, "version_minor": 0}}


def normalise_outputs(outputs: list[Any]) -> list[Any]:
    """One stream of a name between two other outputs: where the kernel happened to flush is no news."""
    result: list[Any] = []
    streams: dict[str, Any] = {}
    for output in outputs:
        if output["output_type"] != "stream":
            streams.clear()
        elif output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
            continue
        else:
            streams[output["name"]] = output
        result.append(output)
    # stdout and stderr race each other through two buffers.
    for i in range(len(result) - 1):
        if [o.get("name") for o in result[i : i + 2]] == ["stderr", "stdout"]:
            result[i : i + 2] = reversed(result[i : i + 2])
    return [map_strings(output, clean_text) for output in result]


def normalise(nb: Any) -> str:
    """The text of a notebook's file. Cells keep their ids: versions are merged by them, and citations name them."""
    nb = nbformat.reads(nbformat.writes(nb, version=4), as_version=4)
    nb.nbformat, nb.nbformat_minor = 4, 5
    count = 0
    hidden = spoilers([cell.source if cell.cell_type == "code" else "" for cell in nb.cells])
    for at, cell in enumerate(nb.cells):
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in CELL_METADATA and v}
        # JupyterLab keeps the output, closed, and opens it when the cell is run.
        own = {k: v for k, v in cell.metadata.get("jupyter", {}).items() if k != "outputs_hidden"}
        cell.metadata["jupyter"] = own | ({"outputs_hidden": True} if at in hidden else {})
        cell.metadata = {k: v for k, v in cell.metadata.items() if v}
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        cell.outputs = normalise_outputs(cell.outputs)
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = cell.execution_count
    normalise_widgets(nb)
    nb.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}} | {
        k: v for k, v in nb.metadata.items() if k == "widgets"
    }
    nb = nbformat.from_dict(nb)
    nbformat.validate(nb)
    return nbformat.writes(nb, version=4).rstrip("\n") + "\n"


def read(path: Path) -> Any:
    return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)


def write(path: Path, nb: Any) -> None:
    text = normalise(nb)
    if text != path.read_text(encoding="utf-8"):
        path.write_text(text, encoding="utf-8", newline="\n")


def execute(path: Path) -> str | None:
    nb = read(path)
    nb.metadata.pop("widgets", None)  # nbclient adds to what is there
    client = NotebookClient(
        nb,
        kernel_name=KERNEL["name"],
        timeout=TIMEOUT,
        store_widget_state=True,
        record_timing=False,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    try:
        client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    except CellExecutionError as error:
        return str(error)
    write(path, nb)
    return None


def check(path: Path) -> str | None:
    nb = read(path)
    code = [(n, cell) for n, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip()]
    missing = [n for n, cell in code if cell.execution_count is None]
    if missing:
        return f"cells {missing} were never executed: make notebooks"
    if normalise(nb) != path.read_text(encoding="utf-8"):
        return "not in normal form: python tools/notebooks.py normalise"
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["execute", "normalise", "check"])
    parser.add_argument("files", nargs="*", type=Path)
    arguments = parser.parse_args(argv)
    actions: dict[str, Callable[[Path], str | None]] = {
        "execute": execute,
        "normalise": lambda path: write(path, read(path)),
        "check": check,
    }
    failed = 0
    for path in arguments.files or sorted(NOTEBOOKS.glob("*.ipynb")):
        problem = actions[arguments.action](path)
        if problem:
            print(f"{path.name}: {problem}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
