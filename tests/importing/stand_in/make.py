"""Writes a model: python make.py KIND FILE [column=transformer]."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sdv.single_table import ctgan as parts
from sdv.single_table.ctgan import Part, Tensor

RNG = np.random.default_rng(0)
DAY = 86_400 * 10**9


def tensor(*shape: int) -> Tensor:
    return Tensor(values=RNG.normal(0, 1, shape))


def linear(inputs: int, outputs: int) -> parts.Linear:
    return parts.Linear(weight=tensor(outputs, inputs), bias=tensor(outputs))


def residual(inputs: int, outputs: int) -> parts.Residual:
    norm = {"weight": tensor(outputs), "bias": tensor(outputs), "running_mean": tensor(outputs)}
    variance = Tensor(values=np.ones(outputs))
    return parts.Residual(
        fc=linear(inputs, outputs), bn=Part(**norm, running_var=variance, eps=1e-5)
    )


def discrete(name: str, *values: Any) -> Part:
    encoder = Part(dummies=list(values))
    return Part(
        column_name=name, column_type="discrete", transform=encoder, output_dimensions=len(values)
    )


def continuous(name: str, mean: float, std: float) -> Part:
    """A mixture of three, of which the second is not used."""
    mixture = Part(
        means_=np.array([[mean], [0.0], [mean + 9 * std]]),
        covariances_=np.full((3, 1, 1), std**2),
    )
    kept = Part(_bgm_transformer=mixture, valid_component_indicator=np.array([True, False, True]))
    return Part(column_name=name, column_type="continuous", transform=kept, output_dimensions=3)


def nulls(how: str | None = None, share: float | None = None) -> parts.Nulls:
    return parts.Nulls(nulls=how is not None, _missing_value_generation=how, _null_percentage=share)


def number(low: float, high: float, digits: int, dtype: str, missing: Part) -> Part:
    return parts.FloatFormatter(
        enforce_min_max_values=True,
        computer_representation="Float",
        learn_rounding_scheme=True,
        _rounding_digits=digits,
        _min_value=low,
        _max_value=high,
        _dtype=np.dtype(dtype),
        null_transformer=missing,
    )


TRANSFORMERS: dict[str, Any] = {
    "visit": parts.AnonymizedFaker(),
    "ward": None,
    "age": number(18, 89, 0, "int64", nulls()),
    "cost": number(0.0, 900.0, 2, "float64", nulls("random", 0.2)),
    "weight": number(30.0, 200.0, 1, "float64", nulls("from_column")),
    "day": parts.UnixTimestampEncoder(
        enforce_min_max_values=True,
        datetime_format="%d/%m/%Y",
        _min_value=19_700 * DAY,
        _max_value=19_900 * DAY,
        null_transformer=nulls(),
    ),
    "grade": parts.UniformEncoder(intervals={"b": [0, 0.25], None: [0.25, 0.5], "a": [0.5, 1]}),
    "size": parts.LabelEncoder(values_to_categories={0: "S", 1: "M", 2: "L"}, add_noise=False),
    "flag": parts.BinaryEncoder(null_transformer=nulls("random", 0.1)),
    "empty": None,
}

INFOS = [
    discrete("ward", "north", np.nan, "south", ""),
    continuous("age", 40.0, 8.0),
    continuous("cost", 100.0, 60.0),
    continuous("weight", 70.0, 5.0),
    discrete("weight.is_null", 0.0, 1.0),
    continuous("day", 19_750.0 * DAY, 10.0 * DAY),
    continuous("grade", 0.2, 0.1),
    continuous("size", 0.3, 0.2),
    continuous("flag", 0.1, 0.1),
    discrete("empty", np.nan),
]


def formatter(name: str) -> Part | None:
    own = TRANSFORMERS[name]
    if not isinstance(own, parts.FloatFormatter):
        return None
    return Part(**{**vars(own), "enforce_rounding": True})


def inner(kind: str) -> Part:
    transformer = Part(_column_transform_info_list=INFOS)
    outputs = sum(info.output_dimensions for info in INFOS)
    if kind == "TVAE":
        decoder = Part(
            seq=[linear(6, 16), parts.ReLU(), linear(16, outputs)],
            sigma=Tensor(values=np.full(outputs, 0.1)),
        )
        return Part(transformer=transformer, decoder=decoder, embedding_dim=6)
    # ward has four categories, the next two, empty one; the rest of the table is padding
    shares = np.array([[0.4, 0.3, 0.2, 0.1], [0.7, 0.3, 0, 0], [1.0, 0, 0, 0]])
    return Part(
        _transformer=transformer,
        _generator=Part(seq=[residual(13, 16), linear(29, outputs)], training=True),
        _data_sampler=Part(
            _discrete_column_category_prob=shares, _n_categories=7, _data_length=321
        ),
        _embedding_dim=6,
    )


def synthesizer(kind: str, changes: dict[str, str]) -> Part:
    transformers = dict(TRANSFORMERS)
    transformers |= {name: getattr(parts, what)() for name, what in changes.items()}
    dtypes = dict.fromkeys(TRANSFORMERS, np.dtype(object)) | {"age": np.dtype("int64")}
    processor = Part(
        _hyper_transformer=Part(field_transformers=transformers),
        metadata=Part(columns={name: {"sdtype": "id"} for name in TRANSFORMERS}),
        formatters={name: own for name in TRANSFORMERS if (own := formatter(name))},
        _dtypes=dtypes,
    )
    return getattr(parts, f"{kind}Synthesizer")(
        _fitted=True,
        _chained_constraints=[],
        _reject_sampling_constraints=[],
        _data_processor=processor,
        _model=None if kind == "CopulaGAN" else inner(kind),
        _table_name="visits",
        _fitted_date="2026-11-26",
        _fitted_sdv_version="2.0.0",
    )


if __name__ == "__main__":
    kind, path, *rest = sys.argv[1:]
    made = synthesizer(kind, dict(change.split("=") for change in rest if "=" in change))
    if "unfitted" in rest:
        made._fitted = False
    if "constraint" in rest:
        made._chained_constraints = [parts.Residual()]
    Path(path).write_bytes(pickle.dumps(made))
