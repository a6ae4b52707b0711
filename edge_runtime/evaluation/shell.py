"""A page that loads nothing: style and drawings are inside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

__all__ = ["card", "loud", "standalone", "table"]


def standalone(title: str, body: Sequence[str]) -> str:
    """Return a whole HTML page of these parts; empty ones are left out."""
    style = files("edge_runtime.evaluation").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        + "\n".join(part for part in body if part)
        + "</main></body></html>\n"
    )


def loud(sentence: str, rest: str) -> str:
    """Return a box that nobody overlooks."""
    return f'<div class="loud">{escape(sentence)}<span>{escape(rest)}</span></div>'


def card(label: str, figure: str, beside: str, *, bad: bool = False) -> str:
    """Return one large figure with its name above and an explanation below."""
    return (
        f'<div class="card{" bad" if bad else ""}"><div class="label">{escape(label)}</div>'
        f'<div class="figure">{escape(figure)}</div>'
        f'<div class="beside">{escape(beside)}</div></div>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int]) -> str:
    """Return a table of texts; the columns `numbers` are set flush right."""

    def line(cells: Sequence[str], tag: str) -> str:
        flush = dict.fromkeys(numbers, ' class="n"')
        inner = (f"<{tag}{flush.get(d, '')}>{escape(cell)}</{tag}>" for d, cell in enumerate(cells))
        return f"<tr>{''.join(inner)}</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
