"""A question that is answered by click or key, in a notebook with a kernel, without one, and on a page.

The browser judges, by a sheet that holds what is right and what to say (`anonfolio.lesson.sheet`); Python hears the
answer and keeps it. `asked.js` says the same words as `anonfolio.lesson.quiz` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import traitlets

from .program import Sharing


class Card(Sharing):
    """One question, or the place where its answer is compared.

    Attributes
    ----------
    sheet : dict
        What `anonfolio.lesson.sheet.sheet` makes of a question.
    mode : str
        ``predict`` keeps an answer, ``check`` judges it, ``compare`` shows what was predicted beside what is so.
    given : any
        The last answer, as JSON; the browser sets it.
    hinted, shown : int, bool
        How many hints were asked for, and whether the solution was.
    unkept : str
        Why Python could not keep the answer in a file, for the reader.

    Parameters
    ----------
    answered : callable
        Called with each answer; returns `unkept`.
    helped : callable
        Called with `hinted` and `shown` when one of them changes.
    """

    name: ClassVar[str] = "asked"
    sheet = traitlets.Dict().tag(sync=True)
    mode = traitlets.Unicode().tag(sync=True)
    given = traitlets.Any(None, allow_none=True).tag(sync=True)
    hinted = traitlets.Int(0).tag(sync=True)
    shown = traitlets.Bool(False).tag(sync=True)
    unkept = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        sheet: Mapping[str, Any],
        mode: str,
        answered: Callable[[Any], str],
        helped: Callable[[int, bool], None],
    ) -> None:
        super().__init__(sheet=dict(sheet), mode=mode)
        self.observe(lambda change: setattr(self, "unkept", answered(change["new"])), "given")
        self.observe(lambda change: helped(self.hinted, self.shown), ["hinted", "shown"])
