"""A page as text, Markdown and HTML. The first two keep to 78 columns: they go into mails."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from html import escape

from ..draw.drawing import printable, themed, xml
from .blocks import Block, Code, Command, Drawing, Page, Pair, Points, Rows, Words

COLUMNS = 78
"""What a line of text has at most, code apart: that stands as its author wrote it."""
PROSE = 72


def text(page: Page) -> str:
    """For a terminal."""
    lines = [*_filled(page.title), "=" * min(len(page.title), PROSE), "", *_filled(page.verdict), ""]
    for section in page.sections:
        lines += [section.title.upper(), ""]
        for block in section.blocks:
            lines += [*_text_of(block), ""]
    return printable("\n".join([*lines, "This report again:", "", *_typed(page.command)])) + "\n"


def markdown(page: Page) -> str:
    """For a cover letter."""
    lines = [f"# {page.title}", "", *_filled(page.verdict), ""]
    for section in page.sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [*_markdown_of(block), ""]
    return printable("\n".join([*lines, "This report again:", "", *_typed(page.command)])) + "\n"


def _filled(words: str, first: str = "", later: str = "") -> list[str]:
    return textwrap.wrap(
        words, PROSE, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def _typed(command: str) -> list[str]:
    """A command as a shell takes it, on several lines where it is long."""
    lines = textwrap.wrap(
        command, PROSE - 6, initial_indent="    $ ", subsequent_indent="        ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _text_of(block: Block) -> Iterator[str]:
    match block:
        case Words(words):
            yield from _filled(words)
        case Points(items):
            for item in items:
                yield from _filled(item, "- ", "  ")
        case Code(code):
            yield from (f"    {line}".rstrip() for line in code.splitlines())
        case Command(command):
            yield from _typed(command)
        case Pair():
            for drawing in block:
                yield from _filled(f"{drawing.whose}: {drawing.sentence}", "  ", "    ")
        case Rows():
            yield from _table(block)


def _markdown_of(block: Block) -> Iterator[str]:
    if not isinstance(block, Rows):
        yield from _text_of(block)
        return
    # In a mail a table is read as it is: aligned, in a block of code.
    yield from (f"    {line}".rstrip() for line in _table(block))


def _table(rows: Rows) -> Iterator[str]:
    if rows.title:
        yield from _filled(rows.title)
        yield ""
    widths = [max(len(row[at]) for row in (rows.heads, *rows.rows)) for at in range(len(rows.heads))]
    room = COLUMNS - 4 - sum(widths[1:]) - 2 * len(widths[1:])
    widths[0] = min(widths[0], max(room, 12))
    for number, row in enumerate((rows.heads, *rows.rows)):
        first = textwrap.wrap(row[0], widths[0]) or [""]
        cells = "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        yield f"{first[0]:{widths[0]}}{cells}".rstrip()
        yield from (f"  {more}" for more in first[1:])
        if not number:
            yield "-" * (sum(widths) + 2 * len(widths[1:]))


# --- HTML -----------------------------------------------------------------------------------------------------------

_LIGHT = {"ink": "#17212b", "mut": "#55616d", "line": "#c3ccd6", "soft": "#f3f5f8", "bg": "#ffffff",
          "bad": "#9a3f00", "good": "#00694c"}  # fmt: skip
_DARK = {"ink": "#eef2f6", "mut": "#a9b4bf", "line": "#47525e", "soft": "#1e252d", "bg": "#14191f",
         "bad": "#f9a06c", "good": "#4fd3ab"}  # fmt: skip
STYLE = (
    themed("afr", _LIGHT, _DARK)
    + """
.afr { color: var(--ink); background: var(--bg); font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif;
 max-width: 1500px; margin: 0 auto; padding: 1rem clamp(.75rem, 3vw, 2.5rem) 3rem; box-sizing: border-box; }
.afr h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
.afr h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
.afr p, .afr li { max-width: 46rem; overflow-wrap: anywhere; }
.afr .verdict { font-size: 1.1rem; border-left: .3rem solid var(--good); padding: .4rem .9rem;
 background: var(--soft); }
.afr .refuted { border-color: var(--bad); }
.afr code, .afr pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .86em; }
.afr pre { background: var(--soft); border: 1px solid var(--line); border-radius: 4px; padding: .6rem .8rem;
 margin: .6rem 0; overflow-x: auto; width: fit-content; max-width: 100%; box-sizing: border-box; }
.afr .typed { white-space: pre-wrap; }
.afr p code, .afr li code { white-space: nowrap; }
.afr .typed span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
.afr .wide { overflow-x: auto; margin: .6rem 0 1.2rem; }
.afr table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
.afr th, .afr td { padding: .22rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
 white-space: nowrap; }
.afr th:first-child, .afr td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 9rem; }
.afr thead th { border-bottom: 2px solid var(--mut); }
.afr .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); gap: .8rem 1.2rem; }
.afr figure { margin: 0; min-width: 0; }
.afr figcaption { color: var(--mut); margin-bottom: .3rem; }
.afr figcaption b { color: var(--ink); }
.afr .picture { overflow-x: auto; }
.afr .picture svg { width: 100%; min-width: 21rem; height: auto; display: block; }
@media print {
 .afr pre { white-space: pre-wrap; overflow-wrap: anywhere; }
 .afr pre, .afr figure, .afr .wide { break-inside: avoid; }
 .afr h2 { break-after: avoid; }
 .afr .pair { grid-template-columns: 1fr 1fr; }
 .afr .picture svg { min-width: 0; }
}
"""
)


def fragment(page: Page) -> str:
    """The page as HTML for a notebook: no document around it."""
    kind = "verdict refuted" if page.refuted else "verdict"
    parts = [f"<style>{STYLE}</style>", '<div class="afr">', f"<h1>{_inline(page.title)}</h1>",
             f'<p class="{kind}">{_inline(page.verdict)}</p>']  # fmt: skip
    for section in page.sections:
        parts.append(f"<h2>{_inline(section.title)}</h2>")
        parts += [_html_of(block) for block in section.blocks]
    return "\n".join([*parts, f"<h2>This report again</h2>{_html_of(Command(page.command))}</div>"])


def html(page: Page) -> str:
    """The page as one file that needs nothing else."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{xml(page.title)}</title>"
        "<style>:root { color-scheme: light dark; } body { margin: 0; }</style></head>\n"
        f"<body>{fragment(page)}</body></html>\n"
    )


def _html_of(block: Block) -> str:
    match block:
        case Words(words):
            return f"<p>{_inline(words)}</p>"
        case Points(items):
            return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>"
        case Code(code):
            return f"<pre>{xml(code)}</pre>"
        case Command(command):
            return f'<pre class="typed">$ {" ".join(f"<span>{xml(word)}</span>" for word in command.split())}</pre>'
        case Pair():
            return f'<div class="pair">{"".join(map(_figure, block))}</div>'
        case Rows():
            return _html_table(block)


def _figure(drawing: Drawing) -> str:
    caption = f"<figcaption><b>{xml(drawing.whose)}</b>: {_inline(drawing.sentence)}</figcaption>"
    return f'<figure>{caption}<div class="picture" tabindex="0">{drawing.svg}</div></figure>'


def _html_table(rows: Rows) -> str:
    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in rows.heads)
    body = "".join(f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in rows.rows)
    title = f"<p>{_inline(rows.title)}</p>" if rows.title else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{title}<div class="wide" tabindex="0">{table}</div>'


def _inline(words: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(printable(words), quote=False))


RENDERERS: dict[str, Callable[[Page], str]] = {"txt": text, "md": markdown, "html": html}
"""By the ending of a file's name."""
