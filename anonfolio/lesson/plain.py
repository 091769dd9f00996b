"""A reader's function in a process of its own: values as JSON and back, and how it takes its arguments.

This file is run without anonfolio, too (`anonfolio.teach.sandbox`): it imports nothing of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

DEEPEST = 20


def packed(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it; ValueError for one that is no plain value.

    Numbers, texts, None, lists, tuples, sets, ranges and dicts are plain; of any other object only a dataclass's
    attributes go over, and only from grader to student.
    """
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return {"float": repr(float(value))}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    for name, kind in (("list", list), ("tuple", tuple), ("set", (set, frozenset))):
        if isinstance(value, kind):
            return {name: [packed(each, depth + 1) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[packed(key, depth + 1), packed(of, depth + 1)] for key, of in value.items()]}
    if hasattr(value, "__dataclass_fields__"):
        known = value.__dataclass_fields__.values()
        fields = {each.name: packed(getattr(value, each.name), depth + 1) for each in known if each.compare}
        return {"object": fields}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return packed(value.item(), depth + 1)
    if hasattr(value, "tolist"):
        return packed(value.tolist(), depth + 1)
    raise ValueError(f"a {type(value).__name__} is no plain value")


def unpacked(value: Any) -> Any:
    """The value again; ValueError or TypeError for what `packed` never makes."""
    if not isinstance(value, dict):
        if value is None or isinstance(value, (bool, int, str)):
            return value
        raise ValueError("no packed value")
    ((kind, inside),) = value.items()
    if kind == "float":
        return float(inside)
    if kind == "range":
        return range(*inside)
    if kind == "dict":
        return {unpacked(key): unpacked(of) for key, of in inside}
    if kind == "object":
        return SimpleNamespace(**{name: unpacked(of) for name, of in inside.items()})
    return {"list": list, "tuple": tuple, "set": set}[kind](unpacked(each) for each in inside)


def asked(function: Callable[..., Any], case: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """How to ask a function about cases like this one: by name, or by position where it has names of its own."""
    if _other_names(function, case):
        return lambda case: function(*case.values())
    return lambda case: function(**case)


def _other_names(function: Callable[..., Any], case: Mapping[str, Any]) -> bool:
    """Whether a function takes the arguments, but under names of its own."""
    try:
        signature = inspect.signature(function)
        signature.bind(*case.values())
    except (TypeError, ValueError):
        return False
    try:
        signature.bind(**case)
    except TypeError:
        return True
    return False
