"""A fleet that is given a packed graph: devices draw from it, the aggregator takes their rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.aggregator import make_release, status
from edge_runtime.aggregator.config import (
    AggregatorConfig,
    BundleSettings,
    DataSettings,
    FleetSettings,
    PrivacySettings,
    RoundSettings,
    RowSettings,
    SchemaSettings,
)
from edge_runtime.aggregator.rounds import Rounds
from edge_runtime.device.config import DeviceConfig, PrivacyConfig, SourceConfig
from edge_runtime.errors import AggregatorError, ConfigError
from edge_runtime.fleet.broker import start_broker
from edge_runtime.fleet.simulated_device import SharedBundles, SimulatedDevice
from edge_runtime.generator import (
    GraphBundle,
    Layout,
    Lineage,
    build_bundle,
    initial_weights,
    open_graph,
    pack_graph,
    sample_codes,
)
from edge_runtime.messages import decode_batch
from edge_runtime.reception import Incoming
from edge_runtime.schema import Codec, Column, Schema
from tests.device.conftest import wait_for

FLEET = "packed"
SCHEMA = Schema(
    name="machines",
    columns=(
        Column(name="fault", kind="boolean", condition=True),
        Column(name="site", kind="category", values=("north", "south")),
    ),
)
CODEC = Codec(schema=SCHEMA, bins={})


@pytest.fixture(scope="module")
def graph() -> GraphBundle:
    weight = np.random.default_rng(0).normal(0, 1, (3, sum(CODEC.cardinalities)))
    nodes = [helper.make_node("MatMul", ["z", "w"], ["logits"])]
    foreign = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    model = helper.make_model(foreign, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"noise": '[{"kind": "normal", "width": 3}]'})
    # As if it were learnt from real rows elsewhere, as examples and imported ones are.
    lineage = Lineage(parent=None, depth=1, round=0, devices=1, rows=100.0, privacy={})
    return pack_graph(model.SerializeToString(), CODEC, lineage=lineage)


def config(tmp_path: Path, packed: Path) -> AggregatorConfig:
    SCHEMA.save(tmp_path / "schema.json")
    return AggregatorConfig(
        fleet=FleetSettings(name=FLEET, devices=2),
        data=DataSettings(dir=str(tmp_path / "aggregator")),
        schema=SchemaSettings(path=str(tmp_path / "schema.json")),
        privacy=PrivacySettings(epsilon=8.0),
        bundle=BundleSettings(packed=str(packed)),
        rounds=RoundSettings(count=2, quorum=2),
        rows=RowSettings(minimum=300, maximum=1000),
    )


@pytest.fixture
def rounds(tmp_path: Path, graph: GraphBundle) -> Iterator[Rounds]:
    graph.save(tmp_path / "foreign.bundle")
    made = Rounds(config(tmp_path, tmp_path / "foreign.bundle"))
    made.restore()
    yield made
    made.close()


@pytest.fixture
def devices(tmp_path: Path, graph: GraphBundle) -> Iterator[list[SimulatedDevice]]:
    shared = SharedBundles(directory=tmp_path / "bundles")
    made = [
        SimulatedDevice(
            config=DeviceConfig(
                id=name,
                fleet=FLEET,
                state_dir=tmp_path / name,
                source=SourceConfig(path=tmp_path / name / "rows.csv", follow=False),
                privacy=PrivacyConfig(epsilon=8.0),
            ),
            schema=SCHEMA,
            rows={"fault": [True, False], "site": ["north", "south"]},
            bundles=shared,
            fetch=lambda _: graph.to_bytes(),
        )
        for name in ("one", "two")
    ]
    yield made
    for device in made:
        device.close()


def test_rounds_of_rows_without_census_or_fusion(
    rounds: Rounds, devices: list[SimulatedDevice], graph: GraphBundle, tmp_path: Path
) -> None:
    for number in (1, 2):
        step = rounds.step(now_unix_s=float(number), states={d.id: d.state for d in devices})
        assert (step.action, step.number) == ("open", number)
        assert step.plan is not None
        assert (step.plan.kind, step.plan.bundle_digest) == ("sample", graph.digest)
        for device in devices:
            device.work(step.plan)
            for message in device.outgoing():
                incoming = Incoming(device.id, message.kind, message.payload)
                (ack,) = rounds.inbox.accept([incoming])
                assert (ack.status, ack.reason) == ("accepted", "")
                device.acknowledge(message, ack)
        step = rounds.step(now_unix_s=number + 0.5, states={d.id: d.state for d in devices})
        assert "2 of 2 devices answered" in step.reason
    assert rounds.step(now_unix_s=9.0, states={}).action == "done"
    assert all(device.entries() == () for device in devices)
    messages = rounds.catalogue.messages(kind="batch")
    assert [m.rows for m in messages] == [300] * 4
    assert {m.bundle_digest for m in messages} == {graph.digest}
    assert {m.depth for m in messages} == {2}
    with pytest.raises(AggregatorError, match="packed graph and learns nothing of its own"):
        make_release(tmp_path / "aggregator", tmp_path / "release")


def test_it_is_taken_up_after_a_restart(rounds: Rounds, tmp_path: Path, graph: GraphBundle) -> None:
    rounds.step(now_unix_s=1.0, states={})
    rounds.close()
    again = Rounds(config(tmp_path, tmp_path / "foreign.bundle"))
    again.restore()
    assert again.digest == graph.digest
    assert len(again.catalogue.bundles(status=None)) == 1
    again.close()


def test_what_cannot_be_served_is_a_mistake_in_the_configuration(
    tmp_path: Path, graph: GraphBundle
) -> None:
    layout = Layout(CODEC.cardinalities, 8)
    lineage = Lineage(parent=None, depth=0, round=0, devices=0, rows=0.0, privacy={})
    own = build_bundle(SCHEMA, CODEC, layout, initial_weights(layout, seed=0), lineage=lineage)
    own.save(tmp_path / "own.bundle")
    made = Rounds(config(tmp_path, tmp_path / "own.bundle"))
    with pytest.raises(ConfigError, match="no packed graph"):
        made.restore()
    made.close()
    graph.save(tmp_path / "foreign.bundle")
    settings = config(tmp_path, tmp_path / "foreign.bundle")
    other = Schema(name="other", columns=SCHEMA.columns)
    other.save(tmp_path / "schema.json")
    elsewhere = DataSettings(dir=str(tmp_path / "elsewhere"))
    made = Rounds(AggregatorConfig(**{
        **{name: getattr(settings, name) for name in settings.__struct_fields__},
        "data": elsewhere,
    }))  # fmt: skip
    with pytest.raises(ConfigError, match="another schema"):
        made.restore()
    made.close()


def test_rows_can_be_drawn_again_from_what_arrives(
    rounds: Rounds, devices: list[SimulatedDevice], graph: GraphBundle
) -> None:
    step = rounds.step(now_unix_s=1.0, states={d.id: d.state for d in devices})
    assert step.plan is not None
    devices[0].work(step.plan)
    (message,) = devices[0].outgoing()
    header, codes = decode_batch(
        message.payload, cardinalities=CODEC.cardinalities, names=SCHEMA.names
    )
    again = sample_codes(open_graph(graph), len(codes), key=bytes.fromhex(header.seed))
    np.testing.assert_array_equal(codes, again)


def test_processes_over_a_real_broker(tmp_path: Path, graph: GraphBundle) -> None:
    """The aggregator's and a device's own commands, from the file of the graph to stored rows."""
    graph.save(tmp_path / "foreign.bundle")
    SCHEMA.save(tmp_path / "schema.json")
    (tmp_path / "rows.csv").write_text("fault,site\ntrue,north\nfalse,south\n", encoding="utf-8")
    broker = start_broker(tmp_path / "broker")
    running: list[subprocess.Popen[bytes]] = []

    def start(module: str, text: str) -> None:
        path = tmp_path / f"{module}.toml"
        path.write_text("\n".join(line.strip() for line in text.splitlines()), encoding="utf-8")
        with (tmp_path / f"{module}.log").open("wb") as log:
            command = [sys.executable, "-m", f"edge_runtime.{module}", "--config", str(path)]
            running.append(subprocess.Popen(command, stdout=log, stderr=log))

    def phase() -> str:
        ended = [p.args for p in running if p.poll() is not None]
        logs = [path.read_text()[-2000:] for path in tmp_path.glob("*.log")]
        assert not ended, logs
        try:
            return str(status(tmp_path / "aggregator")["phase"])
        except AggregatorError:
            # Nothing is written yet.
            return ""

    try:
        start(
            "aggregator",
            f"""
            fleet = {{ name = "{FLEET}", devices = 1 }}
            broker = {{ port = {broker.port} }}
            data = {{ dir = "aggregator" }}
            schema = {{ path = "schema.json" }}
            privacy = {{ epsilon = 8.0 }}
            bundle = {{ packed = "foreign.bundle" }}
            rounds = {{ count = 2, quorum = 1 }}
            """,
        )
        start(
            "device",
            f"""
            device = {{ id = "one", fleet = "{FLEET}", state_dir = "one" }}
            broker = {{ port = {broker.port} }}
            source = {{ path = "rows.csv" }}
            privacy = {{ epsilon = 8.0 }}
            """,
        )
        wait_for("both rounds", lambda: phase() == "done", timeout_s=120.0)
        found = status(tmp_path / "aggregator")
        assert found["totals"]["rows"] == 2 * RowSettings().minimum
        assert found["totals"]["quarantined"] == 0
        assert found["bundle"]["digest"] == graph.digest
        assert found["devices"]["one"]["epsilon_spent"] == 0.0
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(120)
        broker.stop()
