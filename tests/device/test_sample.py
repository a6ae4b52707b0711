"""Sample plans: rows of a bundle as it is, from packed graphs too; nothing is spent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.generator import (
    Bundle,
    GraphBundle,
    open_engine,
    open_graph,
    pack_graph,
    sample_codes,
)
from edge_runtime.messages import AnchorRequest, Plan, RowRequest
from tests.device.shop import Shop


@pytest.fixture(scope="module")
def packed(bundle: Bundle) -> GraphBundle:
    """Logits that are a linear function of normal noise."""
    width = sum(bundle.codec.cardinalities)
    weight = np.random.default_rng(0).normal(0, 1, (3, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["z", "w"], ["logits"])],
        "foreign",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", width])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"noise": '[{"kind": "normal", "width": 3}]'})
    assert isinstance(model, onnx.ModelProto)
    return pack_graph(model.SerializeToString(), bundle.codec)


def sample_plan(shop: Shop, bundle: Bundle | GraphBundle, **changes: Any) -> Plan:
    """The kit's training plan without anything that looks at real rows."""
    plain = {
        "kind": "sample",
        "bundle_digest": bundle.digest,
        "train": None,
        "anchor": None,
        "rows": RowRequest(share=1.0, minimum=5000, maximum=6000),
    }
    return shop.give(shop.kit.train_plan(shop.bundle, epsilon=None, **(plain | changes)))


def test_a_packed_graph_is_run_and_published_from(
    open_shop: Callable[..., Shop], packed: GraphBundle
) -> None:
    shop = open_shop()
    shop.bundles.put(packed.digest, packed.to_bytes())
    plan = sample_plan(shop, packed)
    assert shop.settled(plan).status == "done"
    batches = shop.batches()
    assert [len(codes) for _, codes in batches] == [4096, 904]
    header = batches[0][0]
    codes = np.concatenate([part for _, part in batches])
    again = sample_codes(open_graph(packed), 5000, key=bytes.fromhex(header.seed))
    np.testing.assert_array_equal(codes, again)
    assert (header.bundle_digest, header.codec_digest) == (packed.digest, packed.codec.digest)
    assert header.depth == packed.lineage.depth + 1
    assert header.extra == {"clamp": "none", "weights": "bundle", "offset": 0}
    assert header.privacy.mechanism == "none"
    assert header.privacy.epsilon == 0.0
    assert shop.entries() == []


def test_rows_of_the_fleets_own_bundle_follow_the_devices_counts(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    shop = open_shop()
    census = shop.give(shop.kit.census_plan(bundle.schema, epsilon=2.0))
    assert shop.settled(census).status == "done"
    spent = shop.ledger.epsilon_spent()
    plan = sample_plan(shop, bundle, rows=RowRequest(share=2.0, minimum=1, maximum=6000))
    assert shop.settled(plan).status == "done"
    (header, codes), *_ = shop.batches()
    assert len(codes) > 100
    assert header.extra["clamp"] == "own"
    clamp = {0: codes[:, 0].astype(np.int32)}
    key = bytes.fromhex(header.seed)
    again = sample_codes(open_engine(bundle), len(codes), key=key, clamp=clamp)
    np.testing.assert_array_equal(codes, again)
    assert shop.ledger.epsilon_spent() == spent
    assert header.privacy.epsilon == pytest.approx(spent)


def test_a_packed_graph_is_neither_trained_nor_scored(
    open_shop: Callable[..., Shop], packed: GraphBundle
) -> None:
    shop = open_shop()
    shop.bundles.put(packed.digest, packed.to_bytes())
    train = shop.give(shop.kit.train_plan(shop.bundle, bundle_digest=packed.digest))
    entry = shop.settled(train)
    assert entry.status == "declined"
    assert "neither be trained nor scored" in entry.reason
    measure = shop.give(
        shop.kit.train_plan(
            shop.bundle,
            kind="measure",
            bundle_digest=packed.digest,
            train=None,
            rows=None,
            anchor=AnchorRequest(share=1.0, tables=((0,),)),
        )
    )
    assert shop.settled(measure).status == "declined"
    assert shop.entries() == []
    assert shop.batches() == []


def test_a_bundle_that_is_not_here_is_fetched(
    open_shop: Callable[..., Shop], packed: GraphBundle
) -> None:
    shop = open_shop()
    plan = sample_plan(shop, packed)
    shop.waiting("for the bundle")
    assert set(shop.wanted) == {packed.digest}
    shop.bundles.put(packed.digest, packed.to_bytes())
    shop.worker.wake()
    assert shop.settled(plan).status == "done"


def test_wishes_that_cannot_be_met_are_declined(
    open_shop: Callable[..., Shop], bundle: Bundle, packed: GraphBundle
) -> None:
    shop = open_shop()
    shop.bundles.put(packed.digest, packed.to_bytes())
    for of, wish, words in ((packed, (1.0, 2.0), "whole rows"), (bundle, (1.0,) * 9, "9 codes")):
        rows = RowRequest(share=1.0, minimum=10, maximum=20, clamp="wish", wish=wish)
        entry = shop.settled(sample_plan(shop, of, rows=rows))
        assert entry.status == "declined"
        assert words in entry.reason
    assert shop.batches() == []
