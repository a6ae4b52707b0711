"""Sections of plain values as TOML; the standard library reads the format and does not write it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from edge_runtime.errors import ConfigError

__all__ = ["toml_text", "toml_value"]


def toml_text(sections: Mapping[str, Mapping[str, object]]) -> str:
    """Write sections, ``[name]`` or ``[name.part]`` by key, of texts, numbers and booleans.

    A mapping inside a section becomes ``[section.key]`` below it.

    Raises
    ------
    ConfigError
        A value is of another type.
    """
    blocks = []
    for name, values in sections.items():
        plain = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
        inner = {f"{name}.{k}": v for k, v in values.items() if isinstance(v, Mapping)}
        lines = [f"{key} = {_checked(f'{name}.{key}', value)}" for key, value in plain.items()]
        blocks.append("\n".join([f"[{name}]", *lines]) + "\n")
        if inner:
            blocks.append(toml_text(inner))
    return "\n".join(blocks)


def toml_value(value: object) -> str:
    """Write one text, number or boolean.

    Raises
    ------
    ConfigError
        It is of another type.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)  # Python's inf and nan are TOML's as well
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    raise ConfigError(f"{value!r} is neither a text, a number nor a boolean")


def _checked(name: str, value: object) -> str:
    try:
        return toml_value(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
