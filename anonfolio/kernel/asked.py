"""Asking a function that a reader wrote: it answers in time, or one line says for which facts it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .late import REAL, VIRTUAL, TooLong, is_timed, within
from .rules import Around, Folio, Where

MOST_SECONDS = 2.0
"""So much of the processor's time one answer may take; a rule answers in microseconds, after a long walk in some ms."""


class Open(Exception):
    """A rule asks what whoever runs it does not answer yet: no fault of the rule's."""


class Endless(ValueError):
    """A rule goes on asking."""


class RuleError(ValueError):
    """A rule failed when a machine asked it; the message names policy, rule and facts."""


def answer(call: Callable[..., Any], facts: Any, *more: Any, case: object = None) -> Any:
    """What a rule says of these facts; ValueError with `case`, or else the facts, where it raises or does not end."""
    case = case or facts
    try:
        with within(MOST_SECONDS, VIRTUAL):
            return call(facts, *more)
    except (Open, Endless):
        raise
    except TooLong as late:
        # One answer may need another rule's: both have the first one's time. A file that is read has its own.
        if is_timed(VIRTUAL) or late.clock == REAL:
            raise
        raise ValueError(f"does not come to an end for {case!s} ({str(late) or 'the time for it is over'})") from late
    except Exception as error:
        raise ValueError(f"{_said(error, case)}{_told(error, facts)}") from error


def _said(error: Exception, case: object) -> str:
    return f"raises {type(error).__name__} ({error}) for {case!s}"


def _told(error: Exception, facts: Any) -> str:
    """Where it asks the facts for what they do not hold: what they do hold."""
    if not isinstance(error, AttributeError) or error.obj is not facts or not isinstance(facts, Folio | Where | Around):
        return ""
    held = [name for name in dir(facts) if not name.startswith("_") and name not in _NO_FACTS]
    once = "; no address, for it is asked once for all mappings that are alike" if isinstance(facts, Where) else ""
    return f"; it is told {', '.join(held)}{once}"


_NO_FACTS = ("after", "told", "looked", "count", "index")
