"""A policy that a reader keeps in a file of Python: ``FILE.py``, wherever a policy can be named.

The file is run once, as any module is. What it means is the policy that it calls ``policy``, or the only one that it
makes; what is wrong in it is said with the file and the line, when it is read and whenever one of its rules is asked.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ..kernel.late import TooLong, within
from ..kernel.policy import POLICIES, Policy, policy_named
from .formats import plain_file

MOST_SECONDS = 20
"""So long a file may take, its rules looked at included (milliseconds each): what takes longer never ends."""
_EXAMPLE = 'policy = anonfolio.LINUX_6_15.but(name="mine", large_reuse=my_rule)'

_read: set[str] = set()
"""The files that policies came from, as they are named in tracebacks."""


class PolicyFileError(ValueError):
    """A file that gives no policy; the message names the file, the line, and what would be right."""


def policy_called(name: str | Path) -> Policy:
    """The policy in a file ``FILE.py``, or else the one of that name or release; ValueError says why there is none."""
    if str(name).endswith(".py"):
        return policy_in(name)
    try:
        return policy_named(str(name))
    except ValueError as error:
        if str(name)[:1].isdigit():
            raise
        raise ValueError(f"{error}, or a file FILE.py that makes one") from None


def policy_in(path: str | Path) -> Policy:
    """Run a file of Python, and return the policy that it makes.

    Parameters
    ----------
    path : str or Path
        A file of Python. Beside it may lie what it imports.

    Returns
    -------
    Policy
        The one that it calls ``policy``, else the only one it makes. Where it kept the name of the policy that it came
        from, it is named after the file.

    Raises
    ------
    PolicyFileError
        The file cannot be read, is no Python, raises, takes longer than `MOST_SECONDS`, makes no policy or several, or
        one with a rule that a policy does not take (`anonfolio.kernel.honest`).
    """
    path = Path(path)
    try:
        with plain_file(path, PolicyFileError) as file:
            source = file.read()
    except OSError as error:
        raise PolicyFileError(f"{path}: {error.strerror or error}") from None
    _read.add(str(path))
    module = ModuleType(re.sub(r"\W", "_", str(path.resolve())))
    module.__file__ = str(path)
    # Whoever pickles a rule of it, or asks for the source of one, looks for its module there.
    sys.modules[module.__name__] = module
    try:
        with within(MOST_SECONDS), _its_folder(path):
            exec(compile(source, str(path), "exec"), module.__dict__)
        return _policy_of(module, path, source)
    except PolicyFileError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # what somebody's file does: SystemExit is no way out for us
        raise PolicyFileError(blamed(error) or f"{path}: {_said(error)}") from error


def blamed(error: BaseException | None) -> str:
    """Where in a file that was read an error came from, and what it says; nothing where it did not.

    An error that was made of another one (a rule that raised when it was looked at) is that other one's line.
    """
    if isinstance(error, PolicyFileError):
        return ""
    if isinstance(error, SyntaxError) and error.filename in _read:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [line for each in (error, getattr(error, "__cause__", None)) if each for line in _lines(each)]
    return f"{lines[-1]}: {_said(error)}" if lines and error else ""


def _lines(error: BaseException) -> Iterator[str]:
    """The places in files that were read at which an error passed, the innermost last."""
    step = error.__traceback__
    while step:
        if (name := step.tb_frame.f_code.co_filename) in _read:
            yield f"{name}, line {step.tb_lineno}"
        step = step.tb_next
    # What another process raised comes with its traceback as text (`multiprocessing`, `concurrent.futures`).
    for name, number in re.findall(r'File "(.*?)", line (\d+)', str(getattr(error, "tb", ""))):
        if name in _read:
            yield f"{name}, line {number}"


def _said(error: BaseException) -> str:
    said, kind = str(error), type(error).__name__
    if isinstance(error, TooLong):
        return f"not done after {MOST_SECONDS} s; a file is read, and a rule answers, in milliseconds"
    if isinstance(error, ValueError) and said:
        return said
    return f"{kind}: {said}" if said else kind


# --- which policy it means ------------------------------------------------------------------------------------------


def _policy_of(module: ModuleType, path: Path, source: bytes) -> Policy:
    """The policy that a module means."""
    if "policy" in vars(module):
        meant = vars(module)["policy"]
        if not isinstance(meant, Policy):
            what = f"`policy` is a {type(meant).__name__}, and should be a Policy"
            raise PolicyFileError(f"{path}, line {_line_of(source, 'policy')}: {what}, such as {_EXAMPLE}")
        return _named_after(path, meant)
    made = {id(value): name for name, value in vars(module).items() if isinstance(value, Policy)}
    own = {name: vars(module)[name] for name in made.values() if not _is_known(vars(module)[name])}
    if len(own) > 1:
        names = ", ".join(f"{name} (line {_line_of(source, name)})" for name in own)
        raise PolicyFileError(f"{path}: makes {len(own)} policies: {names}; call the one that is meant `policy`")
    if not own:
        raise PolicyFileError(f"{path}: makes no policy; it should end with a line such as {_EXAMPLE}")
    return _named_after(path, next(iter(own.values())))


def _named_after(path: Path, policy: Policy) -> Policy:
    """The policy under a name of its own: not under that of a kernel that does something else."""
    same = _known(policy.name)
    return policy.but(name=path.stem) if same and same != policy else policy


def _is_known(policy: Policy) -> bool:
    return _known(policy.name) == policy


def _known(name: str) -> Policy | None:
    """The kernel or proposal of that name."""
    if name in POLICIES:
        return POLICIES[name]
    try:
        return Policy.at(name.removeprefix("linux-"))
    except ValueError:
        return None


def _line_of(source: bytes, name: str) -> int | str:
    """The first line that gives something this name."""
    names = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
    lines = (node.lineno for node in names if node.id == name and isinstance(node.ctx, ast.Store))
    return min(lines, default="?")


# --- running it -----------------------------------------------------------------------------------------------------


@contextmanager
def _its_folder(path: Path) -> Iterator[None]:
    """What lies beside it can be imported, but stands in for nothing that is installed."""
    folder = str(path.resolve().parent)
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
