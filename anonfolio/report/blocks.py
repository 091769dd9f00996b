"""What a report consists of, whatever it is written as: sections of paragraphs, lists, tables, programs, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Words(NamedTuple):
    """A paragraph; what stands between backquotes is code."""

    text: str


class Points(NamedTuple):
    """A list."""

    items: tuple[str, ...]


class Rows(NamedTuple):
    """A table: its heads, its rows, the first column words and the others numbers; `title` says what of."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Code(NamedTuple):
    """Lines as they are: a program, a rule, a command."""

    text: str


class Command(NamedTuple):
    """What somebody types to see it again."""

    text: str


class Drawing(NamedTuple):
    """One moment under one policy: whose, a sentence, and the picture as SVG."""

    whose: str
    sentence: str
    svg: str


class Pair(NamedTuple):
    """The same moment under the base and under the policy."""

    left: Drawing
    right: Drawing


Block = Words | Points | Rows | Code | Command | Pair


@dataclass(frozen=True)
class Section:
    """A title and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """The whole: a title, the verdict in a sentence, sections, and what makes it again."""

    title: str
    verdict: str
    refuted: bool
    sections: tuple[Section, ...]
    command: str
