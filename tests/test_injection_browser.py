"""Text that a reader or a file brings stays text: in every picture, table, plot and widget, and on the site's pages."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from browser_support import VIEW
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from test_advice import COMPILE, XEON
from test_look import a_process
from test_site import anywidget, book, shows
from test_site import tool as site_tool

from anonfolio.__main__ import main
from anonfolio.draw.advised import advice_svg, advice_text
from anonfolio.draw.compared import compared_text
from anonfolio.draw.drawing import Drawn, printable, stacked
from anonfolio.draw.looked import look_picture
from anonfolio.draw.micropicture import MicroPicture
from anonfolio.draw.picture import Picture, pictures
from anonfolio.draw.tree import Decision, decisions
from anonfolio.exercises import postfork_reuse_scan
from anonfolio.hardware.advice import Advice, advise
from anonfolio.hardware.cost import read_table
from anonfolio.hardware.cpu import cpu_told
from anonfolio.hardware.microsteps import Race, Run, Write
from anonfolio.hardware.trace import Compared, Setting, read_trace, write_trace
from anonfolio.kernel.policy import LINUX_6_15, Policy
from anonfolio.lesson.quiz import Choice, Mistake, Note, Number
from anonfolio.program.scenario import Scenario
from anonfolio.report import render
from anonfolio.report.blocks import Code, Command, Drawing, Pair, Points, Rows, Section, Words
from anonfolio.report.blocks import Page as Report
from anonfolio.teach import kit
from anonfolio.view import Playground, Stepper
from anonfolio.view.micro import MicroStepper
from anonfolio.view.plots import Line, Panel, coverage, curves, panels, stacks, straight
from anonfolio.view.program import packed
from anonfolio.witness.comparing import Recorded
from anonfolio.witness.recording import DATA_DIR, read_recording

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RAN = "window.ran=1"
HOSTILE = {
    "script": f"<script>{RAN}</script>",
    "image": f"<img src=x onerror={RAN}>",
    "svg": f"<svg onload={RAN}><script>{RAN}</script></svg>",
    "end of a style": f"</style></title></desc></text></svg><script>{RAN}</script>",
    "double quote": f'" onload="{RAN}" x="',
    "single quote": f"' onload='{RAN}' x='",
    "link": f'[go](javascript:{RAN}) <a href="javascript:{RAN}">go</a>',
    "section": f"]]><![CDATA[<script>{RAN}</script>]]>--><!-- <?x ?> <!DOCTYPE x>",
    "references": f"&#x3c;script&#x3e;{RAN}&lt;/script&gt; &amp &nbsp; &#0; &x;",
    "controls": "nul\x00 bel\x07 esc\x1b[31m cr\r del\x7f c1\x85\x9b31m \ud800 \ufffe\uffff end",
    "separators": "line\u2028paragraph\u2029 nel\x85 end",
    "overrides": "a\u202eb\u202dc\u2066d\u2067e\u2068f end",
    "long word": "W" * 3000,
    "style": f";background:url(http://evil.test/x);x:expression({RAN})}} * {{background:url('http://evil.test/y')",
    "formulas": '_ $\\frac{1}{$ $ %s {x} {0} ${stored} `<b>` \\u003c **b** """',
}
"""What a text would do, where it is not taken as text."""

each = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)

UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
SVG = "{http://www.w3.org/2000/svg}"
PROGRAM = Scenario(8, (("write", 0, 0, 1), ("fork", 0), ("write", 1, 0, 2), ("read", 1, 5)), (2,))


# --- a text in all places -------------------------------------------------------------------------------------------


@cache
def policy_of(text: str) -> Policy:
    """Its name, what it says of itself, and all that its rule says."""

    def rule(folio: Any, ask: Any) -> bool:
        if not ask(text, folio.shared, text, asks=text, yes=text, no=text):
            return True
        return bool(ask(f"{text} again", folio.mappings == 1, text, asks=text, yes=text, no=text))

    return LINUX_6_15.but(name=text, about=text, large_reuse=rule)


def scenario_of(text: str) -> Scenario:
    """Scenarios refuse half a surrogate pair, for a file could not hold it."""
    words = text.replace("\ud800", "")
    return PROGRAM.but(name=words, about=words)


@cache
def a_recording() -> Recorded:
    return read_recording(DATA_DIR / "named-6.18.json.gz").named("fork-both-write")


def recorded_of(text: str) -> Recorded:
    recorded = a_recording()
    return replace(
        recorded,
        kernel=text,
        scenario=recorded.scenario.but(name=scenario_of(text).name, about=scenario_of(text).about),
    )


@cache
def run_of(text: str) -> Run:
    race = Race(name=text, start=scenario_of(text).but(steps=PROGRAM.steps[:2]), work=(Write(0, 7),), cpus=(0, 0, 1),
                policy=policy_of(text))  # fmt: skip
    return race.run([])


@cache
def an_advice() -> Advice:
    """How a recorded compile began: two processes and more."""
    whole, accesses = read_trace(COMPILE), 3000
    first = slice(0, accesses)
    short = replace(
        whole, vpn=whole.vpn[first], process=whole.process[first], code=whole.code[first], kernel_faults=accesses,
        processes=tuple({"name": about["name"], "elsewhere": 0} for about in whole.processes),
        calls=tuple(call for call in whole.calls if call.at <= accesses),
    )  # fmt: skip
    return advise(short, [(), (4,)], table=read_table("linux-6.18.44"), cpu=cpu_told(XEON.format(207)))


def advice_of(text: str) -> Advice:
    """What a file of a trace, one of prices and a processor say of themselves, and what a kernel counted."""
    advice = an_advice()
    trace = replace(advice.trace, kernel=text, about={"command": text},
                    processes=tuple({"name": text} for _ in advice.trace.processes))  # fmt: skip
    options = tuple(
        replace(one, replay=replace(one.replay, processes=tuple(replace(part, name=text)
                                                                for part in one.replay.processes)))
        for one in advice.options
    )  # fmt: skip
    return replace(
        advice,
        trace=trace,
        policy=text,
        options=options,
        base=options[0],
        cpu=replace(advice.cpu, name=text, note=text),
        table=replace(advice.table, kernel=text, machine=text),
    )


@cache
def report_of(text: str) -> Report:
    """One that says it everywhere."""
    drawing = Drawing(text, text, Picture.of(scenario_of(text).run(policy_of(text))).svg())
    blocks = (Words(text), Points((text, f"`{text}`")), Rows(text, (text, text), ((text, text),)), Code(text),
              Command(text), Pair(drawing, drawing))  # fmt: skip
    return Report(text, text, True, (Section(text, blocks),), text)


@cache
def stepper_of(text: str) -> Stepper:
    timeline = scenario_of(text).run(policy_of(text))
    other = scenario_of(text).run("rfc-v2")
    return Stepper(timeline, other=other, title=text, labels=[text, text], panel=[f"\n{text}"] * 5, panel_title=text,
                   predict=True, key=2)  # fmt: skip


def playground_of(text: str) -> Playground:
    return Playground(policy_of(text), scenario=scenario_of(text), title=text)


def figure_of(text: str) -> str:
    """What ``anonfolio figure`` writes of a policy in a file."""
    return kit.figure("fork-both-write", -1, policy_of(text))


@cache
def pictures_of(text: str) -> dict[str, str]:
    """Every SVG that holds texts."""
    policy = policy_of(text)
    timeline = scenario_of(text).run(policy)
    machine = PROGRAM.end(policy)
    seen = a_process()
    seen = replace(seen, name=text, missing=text, mappings=tuple(area._replace(name=text) for area in seen.mappings))
    fault = timeline[2].faults[-1]
    drawn: dict[str, Drawn] = {
        "scene": Picture.of(timeline),
        "machine": machine.show(),
        "recording": pictures(recorded_of(text))[-1],
        "micro": MicroPicture(run_of(text)),
        "looked": look_picture(seen),
    }
    return {
        **{name: picture.svg() for name, picture in drawn.items()},
        "tree": Decision({text: fault, f"{text}!": fault}, policy).svg(),
        "trees": decisions(timeline)[3],
        "stacked": stacked(text, [(text, drawn["scene"])], (text, f"\n{text}"), told=text),
        "stepper": stepper_of(text).svg(),
        "micro stepper": MicroStepper(run_of(text), title=text).svg(),
        "playground": playground_of(text).picture.svg(),
        "advice": advice_svg(advice_of(text)),
        "figure": figure_of(text),
    }


def number_of(text: str) -> Number:
    because = "{truth}" + text.replace("{", "").replace("}", "")
    return Number(name=text, prompt=text, hints=(text,), truth=lambda: 3, because=because,
                  mistakes=(Mistake(2, text),), unit=text)  # fmt: skip


@cache
def tables_of(text: str) -> dict[str, str]:
    """Every piece of HTML that holds texts."""
    number = number_of(text)
    choice = Choice(name=text, prompt=text, truth=lambda: "a", options={"a": text, "b": f"{text} "})
    picture = Picture.of(scenario_of(text).run(policy_of(text)))
    notes = [
        number, choice, number.predict(2), number.compare(), number.check(2), number.check(text), number.check(3),
        number.hint(), number.solution(), choice.check(text), choice.check(f"{text}?"), choice.check("b"),
        Note("wrong", text, (text, f"- {text}"), text, picture, fold=True),
    ]  # fmt: skip
    answers = postfork_reuse_scan.answers(scenario_of(text), 2, [policy_of(text)])
    return {
        "notes": "".join(note._repr_html_() for note in notes),
        "answers": answers._repr_html_(),
        "report": render.fragment(report_of(text)),
    }


@cache
def plots() -> dict[str, str]:
    """Each kind of plot with all texts: figures take long to draw."""
    texts = [text[:33] for text in HOSTILE.values()]
    title = HOSTILE["end of a style"][:60]
    lines = [Line(text, [1 + at, 2 + at]) for at, text in enumerate(texts)]
    names = texts[:2]
    drawn = [
        curves(title, [1, 2], lines, x_name=title, y_name=title, marks=[(1, text) for text in texts]),
        coverage(title, [(text, [(0, 1), (1, 4)]) for text in texts]),
        panels(title, texts, [Panel(title, [Line(title, range(1, 1 + len(texts)))])], x_name=title),
        stacks(title, names, lines, x_name=title, y_name=title),
        straight(title, [1, 2], names, [Panel(title, lines)], x_name=title),
    ]
    return {f"plot {number}": plot._repr_svg_() for number, plot in enumerate(drawn)}


# --- what may be in a picture ---------------------------------------------------------------------------------------


def check_svg(svg: str, name: str) -> ET.Element:
    """Well-formed, of shapes and words alone, without control characters."""
    svg.encode()
    assert not UNFIT.search(svg), name
    root = ET.fromstring(svg)
    assert site_tool.shapes_alone(svg), name
    handlers = [key for element in root.iter() for key in element.attrib if key.lower().startswith("on")]
    assert handlers == [], name
    return root


def words_of(root: ET.Element) -> str:
    return "".join("".join(root.itertext()).split())


def squeezed(text: str) -> str:
    return "".join(printable(text).split())


@pytest.mark.sweep(8)
@each
def test_a_text_is_a_text_in_every_picture(text: str) -> None:
    plain = {name: ET.fromstring(svg) for name, svg in pictures_of("plain").items()}
    for name, svg in pictures_of(text).items():
        root = check_svg(svg, name)
        assert squeezed(text)[:40] in words_of(root), name
        cells = [[group.get("data-page") for group in one.iter(f"{SVG}g")] for one in (root, plain[name])]
        assert cells[0] == cells[1], name
        assert {element.tag for element in root.iter()} == {element.tag for element in plain[name].iter()}, name


@pytest.mark.long
def test_a_text_is_a_text_in_every_plot() -> None:
    for name, svg in plots().items():
        root = check_svg(svg, name)
        said = words_of(root)
        for text in HOSTILE.values():
            assert squeezed(text[:33]) in said, (name, text[:33])
        drawn = [text for text in root.iter(f"{SVG}text") if (text.text or "").startswith("_ $\\frac")]
        assert drawn or name == "plot 3" or name == "plot 4", name


@pytest.mark.sweep(4)
@each
def test_a_text_is_a_text_in_every_table(text: str) -> None:
    for name, html in tables_of(text).items():
        assert not UNFIT.search(html), name
        html.encode()
        assert not re.search(r"<script|<img|<svg on|<code><b>|]]>|<a ", html), name


WRITERS: dict[str, Callable[[str], str]] = {
    "advice": lambda text: advice_text(advice_of(text)),
    "advice beside a kernel": lambda text: compared_text(
        an_advice().trace, Compared(COUNTED, advice_of(text).base.replay)
    ),
    "report": lambda text: render.text(report_of(text)),
    "report for a mail": lambda text: render.markdown(report_of(text)),
    "note": lambda text: repr(number_of(text).check(2)),
    "picture": lambda text: Picture.of(scenario_of(text).run(policy_of(text))).text(),
    "micro-steps": lambda text: MicroPicture(run_of(text)).text(),
}
COUNTED = Setting((), [1], [1], [1], [1], [0])


@pytest.mark.parametrize("writer", WRITERS)
def test_a_terminal_is_told_nothing_that_it_obeys(writer: str) -> None:
    said = WRITERS[writer](HOSTILE["controls"] + HOSTILE["overrides"])
    assert "nul" in said
    assert not UNFIT.search(said)


OBEYED = (HOSTILE["controls"] + HOSTILE["overrides"]).replace("\ud800", "").replace("\r", "")
RULE = f"""import anonfolio as af
def rule(folio, ask):
    return ask({OBEYED!r}, folio.mappings == 1)
policy = af.LINUX_6_15.but(name={OBEYED!r}, about={OBEYED!r}, large_reuse=rule)
"""


def foreign_files(folder: Path) -> dict[str, Path]:
    """A file of each kind that a stranger may hand over, with such names in it."""
    files = {kind: folder / name for kind, name in
             {"recording": "r.json", "prices": "p.json", "trace": "t.npz", "policy": "p.py"}.items()}  # fmt: skip
    recording = json.loads(gzip.decompress((DATA_DIR / "named-6.18.json.gz").read_bytes()))
    programs = [{**program, "name": OBEYED} for program in recording["programs"][:10]]
    files["recording"].write_text(json.dumps(recording | {"programs": programs}))
    prices = json.loads((DATA_DIR.parent / "costs" / "linux-6.18.44.json").read_text())
    files["prices"].write_text(json.dumps(prices | dict.fromkeys(("machine", "kernel", "date", "compiler"), OBEYED)))
    write_trace(files["trace"], replace(advice_of(OBEYED).trace, kernel="6.18.44", clock=()))
    files["policy"].write_text(RULE)
    return files


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("replay {recording} --policy rfc-v2", 1), ("cost show {prices}", 0), ("trace replay {trace}", 0),
        ("advise {trace} --figure x.svg", 0), ("run fork-both-write --policy {policy}", 0),
        ("search --policy {policy} --steps 2", 0),
    ],
)  # fmt: skip
def test_a_terminal_obeys_no_file(
    command: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.format(**foreign_files(tmp_path)).split()) == code
    told = "".join(capsys.readouterr())
    assert told
    assert not UNFIT.search(told)


# --- in a browser ---------------------------------------------------------------------------------------------------

ADD = """for (const [name, html] of Object.entries(brought)) {
  const section = document.createElement("section");
  section.innerHTML = html;
  document.body.append(section);
}"""

WIDGETS = """<!doctype html><html lang="en"><meta charset="utf-8"><title>widgets</title><body>
<script type="application/json" id="brought">BROUGHT</script>
<script type="module">
import stepper from "./stepper.js";
import playground from "./playground.js";
const brought = JSON.parse(document.getElementById("brought").textContent);
window.models = brought.map(([kind, states]) => {
  const heard = {}, state = { ...states[0] };
  const el = document.body.appendChild(document.createElement("div"));
  el.className = kind;
  const model = { get: (name) => state[name], set: (name, value) => { state[name] = value; }, save_changes() {},
                  send() {}, on: (event, act) => (heard[event] ??= []).push(act), off() {} };
  (kind === "stepper" ? stepper : playground).render({ model, el });
  for (const next of states.slice(1)) {
    Object.assign(state, next);
    for (const acts of Object.values(heard)) acts.forEach((act) => act());
  }
  return model;
});
window.ready = true;
</script>"""

# What would have run, had a text become markup; in a `template`, too, where it would run later.
FOUND = """own => {
  const all = [...document.querySelectorAll("*")];
  return {
    ran: window.ran,
    handlers: all.filter((one) => [...one.attributes].some(({ name }) => /^on/.test(name))).map((one) => one.outerHTML),
    links: all.filter((one) => /^\\s*javascript:/i.test(one.getAttribute("href") ?? "")).length,
    strange: all.filter((one) => one.matches("iframe, object, embed, form, img, script, link:not([rel=icon])"))
                .map((one) => one.outerHTML.slice(0, 80)).slice(own),
  };
}"""
NOTHING = {"ran": None, "handlers": [], "links": 0, "strange": []}


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that asks for nothing but what a test serves, and says nothing."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    said: list[str] = []
    page.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith(SERVED) else None)
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert said == []


SERVED = ("http://widget.test/", "file:", "data:text/javascript", "data:,")


def serve(page: Page, html: str, more: Mapping[str, tuple[str, str]] | None = None) -> None:
    scripts = {f"/{name}.js": (VIEW / f"{name}.js").read_text(encoding="utf-8") for name in ("stepper", "playground")}
    files = {path: (script, "text/javascript") for path, script in scripts.items()} | dict(more or {})

    def answer(route: Any) -> None:
        body, kind = files.get(route.request.url.removeprefix("http://widget.test"), (html, "text/html"))
        route.fulfill(body=body, content_type=f"{kind}; charset=utf-8")

    page.route("http://widget.test/**", answer)
    page.goto("http://widget.test/")


SOME = [{what: text for at, (what, text) in enumerate(HOSTILE.items()) if at % 5 == part} for part in range(5)]
"""The texts in parts, for one takes long to draw everywhere."""
in_parts = pytest.mark.parametrize("texts", SOME, ids=", ".join)


@pytest.mark.browser
@pytest.mark.sweep(5)
@in_parts
def test_pictures_tables_and_plots_run_nothing(page: Page, texts: Mapping[str, str]) -> None:
    brought = dict(plots())
    for what, text in texts.items():
        brought |= {f"{name}, {what}": html for name, html in (pictures_of(text) | tables_of(text)).items()}
    serve(page, "<!doctype html><title>x</title>")
    page.evaluate(f"brought => {{ {ADD} }}", brought)
    assert page.locator("body > section").count() == len(brought)
    broken = """svgs => svgs.filter(([, svg]) => new DOMParser().parseFromString(svg, "image/svg+xml")
                                           .querySelector("parsererror")).map(([name]) => name)"""
    assert page.evaluate(broken, [[name, html] for name, html in brought.items() if html.startswith("<svg")]) == []
    shown = """() => [...document.querySelectorAll("section")].map((one) => one.querySelector("[data-page]"))
                      .filter((cell) => cell?.getBoundingClientRect().width).length"""
    assert page.evaluate(shown) > 5 * len(texts)
    assert page.evaluate(FOUND, 0) == NOTHING


FRAMES = """() => [...document.querySelectorAll("iframe")].map((frame) => {
  const root = frame.contentDocument.documentElement, all = [...frame.contentDocument.querySelectorAll("*")];
  return [frame.contentWindow.ran ?? null, root.querySelectorAll("script, parsererror, image, iframe").length,
          all.filter((one) => [...one.attributes].some(({ name }) => /^on/.test(name))).length, root.localName];
})"""


@pytest.mark.browser
@pytest.mark.sweep(5)
@in_parts
def test_files_of_their_own_run_nothing(
    page: Page, texts: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures as `figure`, `advise`, `look` and the gallery leave them, reports, slides: there a script would run."""
    asked: dict[str, tuple[str, str]] = {}
    for number, text in enumerate(texts.values()):
        for name, svg in pictures_of(text).items():
            asked[f"/{number}-{name}.svg".replace(" ", "-")] = (svg, "image/svg+xml")
        asked[f"/{number}-report.html"] = (render.html(report_of(text)), "text/html")
        words = text.replace("\ud800", "")
        monkeypatch.setattr(kit, "KEY_STEPS", (kit.KEY_STEPS[0]._replace(title=words, ask=words, see=words),))
        kit.slides(tmp_path)
        asked[f"/{number}-slides.html"] = ((tmp_path / "slides.html").read_text(encoding="utf-8"), "text/html")
    frames = "".join(f'<iframe src="{path}"></iframe>' for path in asked)
    serve(page, f"<!doctype html><title>x</title>{frames}", asked)
    page.wait_for_load_state("load")
    found = dict(zip(asked, page.evaluate(FRAMES), strict=True))
    for path, (ran, strange, handlers, root) in found.items():
        assert (ran, strange, handlers, root) == (None, 0, 0, "svg" if path.endswith(".svg") else "html"), path
        assert not UNFIT.search(asked[path][0]), path


def typed_into(play: Playground, text: str) -> Iterator[Mapping[str, Any]]:
    """What the playground shows, at first and after each message with the text."""
    yield {"fixed": play.fixed, "view": play.view}
    messages: Sequence[dict[str, Any]] = (
        {"verb": "do", "step": text}, {"verb": "do", "step": f"write {text}"}, {"verb": "load", "text": text},
        {"verb": "save", "name": text}, {"verb": "change", "policy": text}, {"verb": "change", "policy": f"{text}?"},
        {"verb": "use", "tool": text, "process": 0, "first": 0, "last": 0},
        {"verb": "use", "tool": "advise", "process": 0, "first": 0, "last": 0, "advice": text},
        {"verb": "change", "policy": "rfc-v2"}, {"verb": "undo"},
    )  # fmt: skip
    for message in messages:
        play._heard(play, message, [])
        yield {"view": play.view}


def state_of(widget: Any, **forged: Any) -> dict[str, Any]:
    """What of a stepper travels, some of what it shows replaced."""
    return {"frames": packed(widget.frames | forged), "step": widget.step, "predict": widget.predict}


@pytest.mark.browser
def test_widgets_run_nothing(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a text may be a good name for a file
    brought: list[tuple[str, list[Mapping[str, Any]]]] = []
    for text in HOSTILE.values():
        stepper = state_of(stepper_of(text))
        steps: list[Mapping[str, Any]] = [{"step": step, "predict": False} for step in (0, 3, 4, 1)]
        brought.append(("stepper", [stepper, *steps]))
        brought.append(("stepper", [state_of(MicroStepper(run_of(text), title=text))]))
        brought.append(("playground", list(typed_into(playground_of(text), text))))
    stored = json.dumps(brought).replace("<", "\\u003c")
    serve(page, WIDGETS.replace("BROUGHT", stored))
    page.wait_for_function("window.ready")
    assert page.evaluate(FOUND, 2) == NOTHING
    empty = """() => [...document.querySelectorAll(".stepper, .playground")]
                  .filter((one) => one.querySelectorAll("svg text").length < 10).length"""
    assert page.evaluate(empty) == 0
    assert page.locator(".playground .afg-view [data-page]").count() == 2 * 8 * len(HOSTILE)


def output(text: str) -> Iterator[Any]:
    for html in [number_of(text)._repr_html_(), tables_of(text)["answers"]]:
        yield new_code_cell("show()", outputs=[new_output("display_data", {"text/html": html})])
    for svg in map(pictures_of(text).get, ("scene", "tree")):
        yield new_code_cell("show()", outputs=[new_output("display_data", {"image/svg+xml": svg, "text/plain": text})])
    yield new_code_cell(text, outputs=[
        new_output("stream", text=text), new_output("display_data", {"text/plain": text}),
        new_output("error", ename=text, evalue=text, traceback=[text]),
    ])  # fmt: skip


def stored(**state: Any) -> dict[str, Any]:
    """A stepper's model as a notebook stores it."""
    read = {kind: (VIEW / f"stepper.{kind}").read_text(encoding="utf-8") for kind in ("js", "css")}
    return anywidget(**state, _esm=read["js"], _css=read["css"])


def forged(piece: str) -> dict[str, Any]:
    """A state that no stepper has written: a piece of its picture is what a stranger likes."""
    stepper = Stepper(PROGRAM.run("linux-6.15"))
    pieces = stepper.frames["pieces"]
    return state_of(stepper, pieces=[*pieces[:-2], piece, *pieces[-1:]])


FORGED = (
    f"<image href=x onerror={RAN} />", f'<g onload="{RAN}">', f"<svg><g/></svg><img src=x onerror={RAN}>",
    f"<title></title></svg><img src=x onerror={RAN}>", f"</g><img src=x onerror={RAN}>",
    f'<desc title="</desc><img src=x onerror={RAN}>"/>', f"<!-- --!><img src=x onerror={RAN}> -->",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.browser
def test_a_page_of_the_site_runs_nothing(page: Page, tmp_path: Path) -> None:
    cells: list[Any] = [new_markdown_cell("# About")]
    models: dict[str, Any] = {}
    for number, text in enumerate(HOSTILE.values()):
        # A notebook is a file in UTF-8: half a surrogate pair cannot be in one.
        text = text.replace("\ud800", "")
        prose = text.replace("$", "S")  # a page refuses formulas
        cells += [new_markdown_cell(f"## {prose}\n\n{prose}"), *output(text), shows(f"own{number}")]
        models[f"own{number}"] = stored(**state_of(stepper_of(text)))
    for number, piece in enumerate(FORGED):
        cells.append(shows(f"forged{number}"))
        models[f"forged{number}"] = stored(**forged(piece))
    image = f"<svg><image href=x onerror={RAN} /></svg>"
    cells += [shows("panel"), shows("legend")]
    models["panel"] = stored(**state_of(stepper_of("x"), panel=[image] * 5))
    models["legend"] = stored(**state_of(stepper_of("x"), legend=image))
    site_tool.build([book(tmp_path, *cells, **models)], tmp_path / "site")
    page.goto((tmp_path / "site" / "07_tlb_reach.html").as_uri())
    page.wait_for_function("[...document.querySelectorAll('.widget')].every((one) => 'shown' in one.dataset)")
    page.evaluate("document.querySelectorAll('.afs-bar button').forEach((one) => one.click())")
    found = page.evaluate(FOUND, 2)
    assert found == NOTHING
    assert page.locator(".widget .afs").count() == len(HOSTILE)
    assert page.locator("main").count() == 1
