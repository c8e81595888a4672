"""Refuses unpickling in a whole process, as a second lock behind the JSON-only queue."""

import sys
from collections.abc import Sequence


class PickleRefused(RuntimeError):
    """Something in this process tried to unpickle an object by name."""


_installed: list[bool] = []


def refuse_pickle() -> None:
    """Forbid `pickle` to look up any class or function from now on; it cannot be undone.

    For the API, supervisor and janitor processes. Calling it again does nothing.
    """
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_hook)


def _hook(event: str, args: Sequence[object]) -> None:
    if event == "pickle.find_class":
        raise PickleRefused(f"refused to unpickle {args[0]}.{args[1]}")
