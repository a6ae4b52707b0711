"""Requests for moments: what fits together, and the arithmetic that both ends share."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import MessageError, RangeError, ShapeError
from edge_runtime.messages import (
    MOMENT_UNITS,
    Header,
    MomentsRequest,
    PrivacyStatement,
    decode_summary,
    encode_summary,
    new_id,
    products,
)


def request(**changes: Any) -> MomentsRequest:
    parts: dict[str, Any] = {
        "share": 0.5, "order": 2, "given": 0, "groups": 2, "columns": (1, 3),
        "scores": ((-1.0, 1.0), (-1.0, 0.0, 1.0)), "centres": ((0.1, 0.2), (0.0, 0.0)),
        "clip_norm": 2.0, **changes,
    }  # fmt: skip
    return MomentsRequest(**parts)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": (3, 1)}, "ascending"),
        ({"columns": (0, 3)}, "given and summed"),
        ({"scores": ((1.0,),)}, "scores of 1 columns"),
        ({"order": 1}, "no centres"),
        ({"order": 1, "centres": (), "groups": 1}, "every condition apart"),
        ({"groups": 3}, "3 groups and centres of 2"),
        ({"groups": 1, "centres": ()}, "needs centres"),
        ({"centres": ((0.1,), (0.0,))}, "2 numbers"),
        ({"centres": ((0.1, 2e6), (0.0, 0.0))}, "1e[+]06 of 0"),
        ({"scores": ((-1.0, float("nan")), (-1.0, 0.0, 1.0))}, "1e[+]06 of 0"),
    ],
)
def test_what_does_not_fit_together_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RangeError, match=words):
        request(**changes)


def test_a_request_survives_json() -> None:
    for made in (request(), request(groups=1), request(order=1, centres=())):
        again = msgspec.json.decode(msgspec.json.encode(made), type=MomentsRequest)
        assert again == made


@pytest.mark.parametrize("clip_norm", [0.0, 1e-7, 1e7, -1.0])
def test_clipping_norms_that_leave_the_floats_are_refused(clip_norm: float) -> None:
    data = msgspec.json.encode(request()).replace(
        b'"clip_norm":2.0', f'"clip_norm":{clip_norm}'.encode()
    )
    with pytest.raises(msgspec.ValidationError, match="clip_norm"):
        msgspec.json.decode(data, type=MomentsRequest)


def test_units_make_the_longest_row_as_long_for_every_order() -> None:
    assert [products(n) for n in (1, 2, 64)] == [1, 3, 2080]
    first, second = request(order=1, centres=()), request()
    assert (first.width, second.width) == (2, 3)
    assert first.unit * MOMENT_UNITS == 2.0
    assert second.unit * MOMENT_UNITS == 4.0
    for made in (first, second):
        longest = made.sensitivity_squared - made.row_units**2
        assert MOMENT_UNITS < longest**0.5 < 1.001 * MOMENT_UNITS


def header(**extra: Any) -> Header:
    return Header(
        fleet="f", device="ua", id=new_id(), sequence=0, kind="moments", schema_digest="a" * 64,
        privacy=PrivacyStatement(mechanism="discrete-gaussian", epsilon=1.0, delta=1e-5),
        extra={"sigma": 100.0, "shift": 4, **extra},
    )  # fmt: skip


def test_a_summary_of_moments_is_one_table_and_its_rows() -> None:
    tensors = {"moments": np.arange(6).reshape(2, 3) - 3, "rows": np.array([7, -1])}
    found, read = decode_summary(encode_summary(header(), tensors))
    assert found.extra == {"sigma": 100.0, "shift": 4}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)
    for wrong in (
        {"moments": tensors["moments"]},
        {**tensors, "rows": np.array([1])},
        {**tensors, "moments": np.arange(6)},
        {**tensors, "other": np.array([1])},
    ):
        with pytest.raises(ShapeError):
            encode_summary(header(), wrong)
    for shift in (-1, 41, 1.5, "4"):
        with pytest.raises(MessageError, match="shift"):
            encode_summary(header(shift=shift), tensors)
