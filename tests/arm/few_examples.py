"""A pytest plugin for emulated runs: property tests take few examples and no deadline.

Emulation is some twenty times slower than the machine below it. Which inputs break a property is
found by the ordinary suite; the question here is whether another processor gives other answers.
"""

from __future__ import annotations

from typing import Any

import hypothesis

_MOST = 5


class _Few(hypothesis.settings):
    """Settings that a test asks for, with fewer examples."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        named["max_examples"] = min(_MOST, named.get("max_examples", _MOST))
        named["deadline"] = None
        super().__init__(*arguments, **named)


# Before any test module takes it.
hypothesis.settings = _Few  # type: ignore[misc]
hypothesis.settings.register_profile("few", hypothesis.settings(), max_examples=_MOST)
hypothesis.settings.load_profile("few")
