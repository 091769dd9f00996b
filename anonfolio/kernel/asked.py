"""Asking a function that a reader wrote: it answers in time, or one line says for which facts it does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from .rules import Around, Folio, Where

MOST_SECONDS = 2.0
"""So much of the processor's time one answer may take; a rule answers in microseconds, after a long walk in some ms."""


class Open(Exception):
    """A rule asks what whoever runs it does not answer yet: no fault of the rule's."""


class Endless(ValueError):
    """A rule goes on asking."""


class RuleError(ValueError):
    """A rule failed when a machine asked it; the message names policy, rule and facts."""


class TooLong(BaseException):
    """It does not come to an end; no `except Exception` of the rule's keeps it."""


def answer(call: Callable[..., Any], facts: Any, *more: Any, case: object = None) -> Any:
    """What a rule says of these facts; ValueError with `case`, or else the facts, where it raises or does not end."""
    case = case or facts
    try:
        with _in_time():
            return call(facts, *more)
    except (Open, Endless):
        raise
    except TooLong as late:
        if _is_running():
            raise
        raise ValueError(f"does not come to an end for {case!s} (no answer after {late} s)") from late
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


@contextmanager
def _in_time() -> Iterator[None]:
    """Stop what takes too long, where that can be done: on Unix, in the main thread.

    The clock is the processor's, so that a busy machine stops nobody. One answer may need another rule's: both have the
    first one's time, for Linux gives a timer that is set again a tick more, and who asks often would never be late.
    """
    main = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not main or _is_running():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    timer = signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
        finally:
            # Also where it was late just now.
            signal.signal(signal.SIGVTALRM, before)


def _is_running() -> bool:
    """Whether an answer is being waited for already."""
    return signal.getsignal(signal.SIGVTALRM) is _stop


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise TooLong(f"{MOST_SECONDS:g}")
