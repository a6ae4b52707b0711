"""Unpickles a synthesizer and describes it, in the process that `unpickling` starts for it alone.

Nothing else of the package imports this module: it needs SDV and torch, and by then the file's own
code has run.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import ModelImportError
from edge_runtime.importing.sdv.description import (
    Description,
    Head,
    Layer,
    Normalisation,
    Output,
    Words,
)
from edge_runtime.importing.sdv.pickle_names import SUPPORTED
from edge_runtime.importing.sdv.reading_columns import describe_output

__all__ = ["child", "describe"]


def child() -> None:
    """Unpickle standard input, and describe it in the file named by the first argument.

    What goes wrong on purpose is one line in a file beside it, ``.error``.
    """
    out = Path(sys.argv[1])
    try:
        # Whoever started this has agreed to it, and knows what it means.
        data = describe(pickle.load(sys.stdin.buffer)).to_bytes()  # noqa: S301
    except ModelImportError as error:
        out.with_suffix(".error").write_text(str(error), encoding="utf-8")
        return
    out.write_bytes(data)


def describe(synthesizer: Any) -> Description:
    """Describe a fitted `CTGANSynthesizer` or `TVAESynthesizer`.

    Raises
    ------
    ModelImportError
        It is something else, is not fitted, has constraints, or has a column whose transformer
        is not supported.
    """
    kind = f"{type(synthesizer).__module__}.{type(synthesizer).__name__}"
    if kind not in SUPPORTED:
        raise ModelImportError(f"it becomes a {kind}, not one of {', '.join(SUPPORTED)}")
    model = type(synthesizer).__name__.removesuffix("Synthesizer")
    if not getattr(synthesizer, "_fitted", False):
        raise ModelImportError(f"the {model}Synthesizer was saved before it was fitted")
    constraints = [
        type(constraint).__name__
        for kind in ("chained", "reject_sampling")
        for constraint in getattr(synthesizer, f"_{kind}_constraints", [])
    ]
    if constraints:
        raise ModelImportError(
            f"the synthesizer has constraints ({', '.join(constraints)}), which change what the "
            "model learns; fit it without them, and declare them in a schema of this project"
        )
    inner = synthesizer._model
    tvae = model == "TVAE"
    transformer = inner.transformer if tvae else inner._transformer
    sigma = inner.decoder.sigma.detach().numpy() if tvae else None
    heads = list(_heads(transformer, sigma))
    condition, rows = ([], None) if tvae else _condition(inner._data_sampler)
    layers = tuple(_layers(inner.decoder.seq if tvae else inner._generator.seq))
    categories = {
        str(info.column_name): list(info.transform.dummies)
        for info in transformer._column_transform_info_list
        if info.column_type == "discrete"
    }
    names = [head.name for head in heads]
    outputs, left_out = _outputs(synthesizer._data_processor, names, categories)
    words = Words(
        model="TVAE" if tvae else "CTGAN",
        table=str(synthesizer._table_name),
        embedding=int(inner.embedding_dim if tvae else inner._embedding_dim),
        batch_statistics=not tvae and bool(inner._generator.training),
        condition=condition,
        heads=heads,
        outputs=outputs,
        left_out=left_out,
        rows=rows,
        fitted=synthesizer._fitted_date,
        sdv_version=synthesizer._fitted_sdv_version,
    )
    return Description(words=words, layers=layers)


def _heads(transformer: Any, sigma: Any) -> Iterator[Head]:
    """One head per column of ctgan's DataTransformer."""
    start = 0
    for info in transformer._column_transform_info_list:
        name = str(info.column_name)
        if info.column_type == "discrete":
            yield Head(name=name, categories=len(info.transform.dummies))
        else:
            mixture = info.transform._bgm_transformer
            kept = np.asarray(info.transform.valid_component_indicator)
            yield Head(
                name=name,
                means=mixture.means_.reshape(-1)[kept].tolist(),
                stds=np.sqrt(mixture.covariances_).reshape(-1)[kept].tolist(),
                sigma=0.0 if sigma is None else float(sigma[start]),
            )
        start += info.output_dimensions


def _condition(sampler: Any) -> tuple[list[float], int]:
    """Probabilities as `DataSampler.sample_original_condvec` has them, and the rows behind them."""
    shares = np.asarray(sampler._discrete_column_category_prob, np.float64).flatten()
    # What is padded is zero, and no category is: each was seen.
    shares = shares[shares != 0]
    if len(shares) != sampler._n_categories:
        raise ModelImportError(
            f"{len(shares)} of {sampler._n_categories} categories have a frequency; the file is "
            "damaged or of another release of ctgan"
        )
    rows = int(sampler._data_length)
    return (shares / shares.sum()).tolist() if len(shares) else [], rows


def _layers(modules: Any) -> Iterator[Layer]:
    for module in modules:
        kind = type(module).__name__
        if kind == "ReLU":
            continue
        if kind not in ("Linear", "Residual"):
            raise ModelImportError(f"the network has a {kind}, which CTGAN and TVAE do not have")
        linear = module if kind == "Linear" else module.fc
        own = None
        if kind == "Residual":
            own = Normalisation(
                scale=_numbers(module.bn.weight),
                shift=_numbers(module.bn.bias),
                mean=_numbers(module.bn.running_mean),
                variance=_numbers(module.bn.running_var),
                eps=float(module.bn.eps),
            )
        yield Layer(weight=_numbers(linear.weight).T, bias=_numbers(linear.bias), normalisation=own)


def _numbers(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy().astype(np.float32)


def _outputs(
    processor: Any, heads: list[str], categories: dict[str, list[Any]]
) -> tuple[list[Output], dict[str, str]]:
    transformers = processor._hyper_transformer.field_transformers
    outputs: list[Output] = []
    left_out: dict[str, str] = {}
    for name, metadata in processor.metadata.columns.items():
        transformer = transformers.get(name)
        if str(name) not in heads:
            made_by = "SDV" if transformer is None else type(transformer).__name__
            left_out[str(name)] = f"{metadata['sdtype']}, made up by {made_by}, not learnt"
            continue
        described = describe_output(
            str(name),
            transformer=transformer,
            formatter=processor.formatters.get(name),
            dtype=processor._dtypes[name],
            categories=categories,
        )
        if described is None:
            left_out[str(name)] = "always missing"
        else:
            outputs.append(described)
    if not outputs:
        raise ModelImportError("the model has no column that it learnt")
    return outputs, left_out
