"""Errors a user can act on: each names the key, the value it had and what is allowed."""

import difflib
from collections.abc import Iterable
from typing import Any


class CurvatureError(Exception):
    """Base of the errors that are shown to the user as one message, without a traceback."""


class ConfigError(CurvatureError):
    """A configuration that cannot work.

    Args:
        key: dotted config key, e.g. ``"data.batch_size"``.
        value: the offending value.
        allowed: what would be accepted, as a phrase.
    """

    def __init__(self, key: str, value: Any, allowed: str) -> None:
        self.key, self.value, self.allowed = key, value, allowed
        super().__init__(f"{key}={value!r} cannot work: {allowed}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.value, self.allowed)


def near_matches(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Up to ``count`` entries of ``known`` that look like ``word``, best first."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)


def with_matches(problem: str, word: str, known: Iterable[str], label: str) -> str:
    """``problem`` with the entries of ``known`` that look like ``word``, or with all of them after ``label``."""
    listed = list(known)
    if matches := near_matches(word, listed):
        return f"{problem}; did you mean {', '.join(matches)}?"
    return f"{problem}; {label}: {', '.join(listed)}" if listed else problem
