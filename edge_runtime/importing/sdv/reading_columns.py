"""What SDV makes of a column of the model: RDT's transformer and SDV's formatter in a few numbers.

Takes their objects and imports neither. Only what changes a value on the way out is read:
rounding, clipping, formats of moments, intervals of categories, missing values.
"""

from __future__ import annotations

import numbers
import re
from typing import Any

import numpy as np

from edge_runtime.errors import ModelImportError
from edge_runtime.importing.sdv.description import Output, Unit

__all__ = ["describe_output"]

Values = list[str | float | bool | None]

#: directives of strftime, by the unit that is left when nothing finer is shown
_DIRECTIVES: tuple[tuple[str, Unit], ...] = (
    ("f", "us"),
    ("STXcs", "s"),
    ("MR", "m"),
    ("HI", "h"),
    ("djeDFx", "D"),
    ("mbB", "M"),
)
#: float64 holds every whole number up to here
_EXACT_INTEGER = 2**53


def describe_output(
    name: str, *, transformer: Any, formatter: Any, dtype: Any, categories: dict[str, list[Any]]
) -> Output | None:
    """Describe one column of SDV's rows.

    Parameters
    ----------
    name : str
    transformer : object or None
        RDT's, from `HyperTransformer.field_transformers`.
    formatter : object or None
        SDV's `NumericalFormatter` or `DatetimeFormatter`.
    dtype : object
        Of the column in the frame that was fitted.
    categories : dict of str to list
        Of ctgan's one-hot encoders, for the columns that it does not model as continuous.

    Returns
    -------
    Output or None
        None where every value would be missing.

    Raises
    ------
    ModelImportError
        The transformer is not one of those that are supported.
    """
    kind = "none" if transformer is None else type(transformer).__name__
    if kind == "FloatFormatter" or (transformer is None and name not in categories):
        return _number(name, transformer, formatter, dtype, categories)
    if kind == "UnixTimestampEncoder":
        return _moment(name, transformer, formatter, categories)
    if kind in ("UniformEncoder", "OrderedUniformEncoder"):
        labels = list(transformer.intervals)
        ends = [float(transformer.intervals[label][1]) for label in labels]
        return _labelled(name, labels, ends=ends[:-1])
    if kind in ("LabelEncoder", "OrderedLabelEncoder"):
        codes = sorted(transformer.values_to_categories)
        # with noise a code is the floor of the value, without it the nearest
        ends = [float(code) if transformer.add_noise else code - 0.5 for code in codes[1:]]
        return _labelled(name, [transformer.values_to_categories[code] for code in codes], ends)
    if kind == "BinaryEncoder":
        return _labelled(name, [False, True], ends=[0.5], **_missing(name, transformer, categories))
    if transformer is None:
        return _labelled(name, categories[name])
    raise ModelImportError(
        f"column {name!r} goes through {kind}, which cannot be imported; supported are "
        "FloatFormatter, UnixTimestampEncoder, UniformEncoder, LabelEncoder, BinaryEncoder and "
        "SDV's own handling of categories"
    )


def _labelled(
    name: str, labels: list[Any], ends: list[float] | None = None, **missing: Any
) -> Output | None:
    """Return a column whose values are listed."""
    present = [label for label in labels if not _is_missing(label)]
    if not present:
        return None
    values: Values
    if all(isinstance(label, bool | np.bool_) for label in present):
        values = [None if _is_missing(label) else bool(label) for label in labels]
        return Output(name=name, kind="boolean", values=values, ends=ends, **missing)
    if all(_exact(label) for label in present):
        values = [None if _is_missing(label) else float(label) for label in labels]
        whole = all(isinstance(label, numbers.Integral) for label in present)
        return Output(
            name=name, kind="integer" if whole else "number", values=values, ends=ends, **missing
        )
    # An empty text means missing in tables of this project.
    values = [None if _is_missing(label) else str(label) or None for label in labels]
    return Output(name=name, kind="category", values=values, ends=ends, **missing)


def _exact(label: Any) -> bool:
    real = isinstance(label, numbers.Real) and not isinstance(label, bool | np.bool_)
    return real and bool(np.isfinite(float(label))) and abs(label) <= _EXACT_INTEGER


def _is_missing(label: Any) -> bool:
    # None, and whatever is not equal to itself: nan, NaT. pandas.NA compares to itself.
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(label, numbers.Real) and bool(label != label)  # noqa: PLR0124


def _number(
    name: str, transformer: Any, formatter: Any, dtype: Any, categories: dict[str, list[Any]]
) -> Output:
    low, high, digits = -np.inf, np.inf, []
    for part, learns in ((transformer, "learn_rounding_scheme"), (formatter, "enforce_rounding")):
        if part is None:
            continue
        bounds = _limits(part)
        low, high = max(low, bounds[0]), min(high, bounds[1])
        if getattr(part, learns) and part._rounding_digits is not None:
            digits.append(int(part._rounding_digits))
        elif _is_integer(part._dtype):
            digits.append(0)
    if _is_integer(dtype):
        digits.append(0)
    decimals = min(digits, default=None)
    if decimals is not None and decimals < 0:
        raise ModelImportError(
            f"column {name!r} is rounded to {decimals} decimals; 0 and more can be imported"
        )
    return Output(
        name=name,
        kind="integer" if decimals == 0 else "number",
        low=None if low == -np.inf else low,
        high=None if high == np.inf else high,
        decimals=decimals,
        **_missing(name, transformer, categories),
    )


def _limits(part: Any) -> tuple[float, float]:
    """Range that a FloatFormatter or NumericalFormatter clips to."""
    if part.enforce_min_max_values:
        return float(part._min_value), float(part._max_value)
    stored = re.fullmatch(r"(U?Int)(\d+)", getattr(part, "computer_representation", ""))
    if stored is None:
        return -np.inf, np.inf
    signed, bits = stored[1] == "Int", int(stored[2])
    return -(2.0 ** (bits - 1)) * signed, 2.0 ** (bits - signed) - 1


def _is_integer(dtype: Any) -> bool:
    # numpy's int64 and pandas' Int64 both
    return re.fullmatch(r"[Uu]?[Ii]nt\d+", str(dtype)) is not None


def _moment(
    name: str, transformer: Any, formatter: Any, categories: dict[str, list[Any]]
) -> Output:
    form = transformer.datetime_format or getattr(formatter, "datetime_format", None)
    enforced = transformer.enforce_min_max_values
    return Output(
        name=name,
        kind="timestamp",
        low=float(transformer._min_value) if enforced else None,
        high=float(transformer._max_value) if enforced else None,
        unit=_finest(form),
        **_missing(name, transformer, categories),
    )


def _finest(form: str | None) -> Unit:
    """Return the unit that a strftime format cuts a moment down to."""
    if form is None:
        return "us"
    shown = set(re.findall(r"%[-#]?([A-Za-z])", form))
    return next((unit for letters, unit in _DIRECTIVES if shown & set(letters)), "Y")


def _missing(name: str, transformer: Any, categories: dict[str, list[Any]]) -> dict[str, Any]:
    """How missing values come back, by RDT's NullTransformer.

    The column of zeros and ones that it makes is not in the metadata: SDV takes it for discrete.
    """
    nulls = getattr(transformer, "null_transformer", None)
    if nulls is None or not nulls.nulls:
        return {}
    if nulls.models_missing_values():
        gone = f"{name}.is_null"
        return {"gone": gone, "absent": [float(value) > 0.5 for value in categories.get(gone, [])]}
    return {"missing": float(nulls._null_percentage or 0.0)}
