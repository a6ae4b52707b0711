"""The model card: what a generator is, what it cost and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.generator.layout import Layout
from edge_runtime.generator.lineage import Lineage
from edge_runtime.schema import Column, Schema, format_timestamp

__all__ = ["graph_card", "model_card"]

#: Values listed per categorical column; the schema in the bundle has them all.
_SHOWN_VALUES = 8


def model_card(
    schema: Schema,
    layout: Layout,
    *,
    lineage: Lineage,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Write a model card in Markdown.

    Parameters
    ----------
    schema : Schema
    layout : Layout
    lineage : Lineage
    metrics : mapping, optional
        Figures by name; nested mappings become dotted names.

    Returns
    -------
    str
    """
    network = (
        f"Masked autoregressive network over {layout.columns} columns and {layout.width} codes, "
        f"two hidden layers of {layout.hidden} units, {layout.parameters:,} parameters; int8 "
        "weights with static scales beside the float ones."
    )
    asking = (
        "Any column can be asked for: conditions, and columns near the front, at no cost; later "
        "ones by rejection."
    )
    return _card(schema, layout.cardinalities, lineage, metrics, network=network, asking=asking)


def graph_card(
    schema: Schema,
    cardinalities: Sequence[int],
    *,
    lineage: Lineage,
    about: str,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Write the card of a graph that somebody else made, in Markdown.

    Parameters
    ----------
    schema : Schema
    cardinalities : sequence of int
        Codes of each column.
    lineage : Lineage
    about : str
        What is known of the graph.
    metrics : mapping, optional
        As `model_card`.

    Returns
    -------
    str
    """
    asking = "Any column can be asked for, by rejection."
    return _card(schema, cardinalities, lineage, metrics, network=_text(about), asking=asking)


def _card(
    schema: Schema,
    cardinalities: Sequence[int],
    lineage: Lineage,
    metrics: Mapping[str, Any] | None,
    *,
    network: str,
    asking: str,
) -> str:
    parts = [
        f"# Generator of {_text(schema.name)}",
        "Draws synthetic rows of the table below. No row of it is a real row." + _series(schema),
        "## Privacy",
        _privacy(lineage.privacy, schema.privacy_unit),
        "## Lineage",
        _table(
            ("what", "value"),
            [
                ("parent bundle", lineage.parent or "none"),
                ("generations of synthetic rows behind it", str(lineage.depth)),
                ("training round", str(lineage.round)),
                ("devices", str(lineage.devices)),
                ("real rows learnt from (estimate)", f"{lineage.rows:,.0f}"),
            ],
        ),
        "## Columns",
        _table(
            ("column", "kind", "range or values", "missing", "condition", "codes"),
            [
                (
                    column.name,
                    column.kind,
                    _range(column),
                    "possible" if column.nullable else "never",
                    "yes" if column.condition else "",
                    str(codes),
                )
                for column, codes in zip(schema.columns, cardinalities, strict=True)
            ],
        ),
        *_constraints(schema),
        "## Network",
        network,
    ]
    if metrics:
        parts += ["## Figures", _table(("figure", "value"), _flat(metrics))]
    parts += [
        "## Use and limits",
        f"- {asking}\n"
        "- Figures of single rows mean nothing: a synthetic row describes no person or event.\n"
        "- Rare combinations are the least certain; check a conclusion about a small group "
        "against real rows before acting on it.\n"
        "- Values outside the declared range were clamped to it while learning.",
    ]
    return "\n\n".join(parts) + "\n"


def _series(schema: Schema) -> str:
    if schema.sequence is None:
        return ""
    return (
        f" A row is a {schema.privacy_unit} that follow each other, `@0` the first of them; series "
        "of any length are drawn from it step by step."
    )


def _constraints(schema: Schema) -> list[str]:
    if not schema.constraints:
        return []
    listed = "\n".join(f"- {_text(constraint)}" for constraint in schema.constraints)
    return ["## Constraints", f"Every row drawn keeps these:\n\n{listed}"]


def _privacy(privacy: Mapping[str, Any], unit: str) -> str:
    if "epsilon" not in privacy:
        return "**NO PRIVACY STATEMENT.** Treat these weights like the real rows."
    epsilon = privacy["epsilon"]
    if epsilon is None:
        return (
            "**WITHOUT PRIVACY.** The weights were learnt without noise and may reveal real rows. "
            "Treat them, and rows drawn from them, like the real rows."
        )
    text = f"Epsilon {_number(epsilon)}"
    if privacy.get("delta") is not None:
        text += f" at delta {_number(privacy['delta'])}"
    text += f" per {_text(privacy.get('unit') or unit)}"
    rest = {k: v for k, v in privacy.items() if k not in {"epsilon", "delta", "unit"}}
    details = "; ".join(f"{_text(k)}: {_text(v)}" for k, v in sorted(rest.items()))
    return f"{text}." + (f" {details}." if details else "")


def _range(column: Column) -> str:
    unit = f" {column.unit}" if column.unit else ""
    if column.values:
        shown = ", ".join(column.values[:_SHOWN_VALUES])
        left = len(column.values) - _SHOWN_VALUES
        shown += f" and {left} more" if left > 0 else ""
        return shown + (" or other" if column.other else "")
    if column.low is None or column.high is None:
        return "true, false" if column.kind == "boolean" else ""
    if column.kind == "timestamp":
        return f"{format_timestamp(int(column.low))} to {format_timestamp(int(column.high))}"
    return f"{column.low:g} to {column.high:g}{unit}"


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            rows.append((f"{prefix}{name}", _number(value)))
    return rows


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    """Free text on one line, so that a name cannot break out of its place in the card."""
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)
