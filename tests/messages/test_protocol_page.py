"""docs/protocol.md is held to its word: its snippets run, its tables are complete."""

from __future__ import annotations

import hmac
import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import MessageError
from edge_runtime.messages import (
    DEFAULT_LIMITS,
    Ack,
    AggregatorStatus,
    Alarm,
    Alarms,
    AnchorRequest,
    DeviceProgress,
    DeviceState,
    Header,
    MomentsRequest,
    Plan,
    PrivacyStatement,
    RowRequest,
    ScoreRequest,
    Topics,
    TrainRequest,
    UpdateRequest,
    encode_batch,
    encode_summary,
    new_id,
)
from edge_runtime.messages.enrolment import (
    EnrolmentReply,
    EnrolmentRequest,
    encode_sealed,
    reply_topic,
    request_topic,
)

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def header(kind: str) -> Header:
    return Header(
        fleet="f", device="ua", id=new_id(), sequence=0, kind=kind, schema_digest="a" * 64,  # type: ignore[arg-type]
        privacy=PrivacyStatement(mechanism="dp-sgd", epsilon=7.5, delta=1e-5), extra={"sigma": 3.5},
    )  # fmt: skip


def run(snippet: str, folder: Path) -> str:
    # Alone means alone: not a module of this package may be loaded.
    alone = "\nimport sys\nassert not [m for m in sys.modules if m.startswith('edge_runtime')]\n"
    done = subprocess.run(
        [sys.executable, "-c", snippet + alone],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_batch_is_read_by_pyarrow_and_zstandard_alone(tmp_path: Path) -> None:
    codes = np.array([[0, 299], [2, 0], [1, 256]], dtype=np.int32)
    data = encode_batch(header("batch"), codes, cardinalities=[3, 300], names=["late", "distance"])
    (tmp_path / "batch.bin").write_bytes(data)
    snippet = SNIPPETS[0]
    assert {"edge_runtime", "nanoarrow"}.isdisjoint(re.findall(r"^import (\w+)", snippet, re.M))
    assert run(snippet, tmp_path) == "ua 7.5 3 ['late', 'distance']"
    values = snippet + "\nprint(table.to_pydict())"
    assert run(values, tmp_path).endswith("{'late': [0, 2, 1], 'distance': [299, 0, 256]}")


def test_a_summary_is_read_by_safetensors_and_zstandard_alone(tmp_path: Path) -> None:
    tensors = {
        "table.0": np.array([1, -2, 3]),
        "table.0.1": np.arange(6).reshape(3, 2),
    }
    (tmp_path / "summary.bin").write_bytes(encode_summary(header("anchor"), tensors))
    output = run(SNIPPETS[1] + "\nprint(counts['table.0'].tolist())", tmp_path)
    assert output.startswith("anchor 3.5 {")
    assert "'table.0.1': (3, 2)" in output
    assert output.endswith("[1, -2, 3]")


def test_every_snippet_is_tested() -> None:
    assert len(SNIPPETS) == 2


@pytest.mark.parametrize(
    "message",
    [Header, PrivacyStatement, Plan, TrainRequest, AnchorRequest, MomentsRequest, RowRequest,
     ScoreRequest, UpdateRequest, Ack, DeviceState, DeviceProgress, AggregatorStatus,
     Alarm, Alarms, EnrolmentRequest, EnrolmentReply],
)  # fmt: skip
def test_every_field_is_documented(message: type[msgspec.Struct]) -> None:
    documented = set(re.findall(r"`(\w+)`", PAGE))
    assert set(message.__struct_encode_fields__) <= documented


def test_every_topic_is_documented_and_parsed() -> None:
    topics = Topics("plant-7")
    documented = set(re.findall(r"^\| `((?:up|down)/[^`]+)`", PAGE, re.M))
    digest = "0123456789abcdef" * 4
    built = {
        "up/<device>/state": topics.state("d1"),
        "up/<device>/batch": topics.batch("d1"),
        "up/<device>/summary": topics.summary("d1"),
        "down/<device>/ack": topics.ack("d1"),
        "down/<device>/command": topics.command("d1"),
        "down/all/schema": topics.schema,
        "down/all/plan": topics.plan,
        "down/all/bundle/<digest>": topics.bundle(digest),
        "down/all/status": topics.status,
        "down/all/alarms": topics.alarms,
        "down/all/update": topics.update,
        "down/all/certificate": topics.certificate,
        "down/all/revoked": topics.revoked,
    }
    assert documented == built.keys()
    for shape, topic in built.items():
        filled = shape.replace("<device>", "d1").replace("<digest>", digest)
        assert topic == f"er/v1/plant-7/{filled}"
        address = topics.parse(topic)
        parts = filled.split("/")
        assert address == (parts[0], parts[1], parts[2], parts[3] if len(parts) > 3 else "")


def test_enrolment_is_as_documented() -> None:
    token = 32 * "a"
    rows = re.findall(r"^\| `(enrol/[^`]+)`", PAGE, re.M)
    assert [f"er/v1/f/{row.replace('<token>', token)}" for row in rows] == [
        request_topic("f", token), reply_topic("f", token),
    ]  # fmt: skip
    fields = {
        "version": 1,
        "token": token,
        "fleet": "f",
        "device": "d",
        "request": "ü",
        "nonce": token,
    }
    text = json.dumps({**fields, "mac": ""}, separators=(",", ":"), ensure_ascii=False).encode()
    mac = hmac.new(b"secret", b"EnrolmentRequest\0" + text, "sha256").hexdigest()
    sealed = encode_sealed(EnrolmentRequest(**fields), b"secret")  # type: ignore[arg-type]
    assert json.loads(sealed) == {**fields, "mac": mac}


def test_filters_match_what_they_say() -> None:
    topics = Topics("f")
    assert topics.all_states == topics.state("d").replace("/d/", "/+/")
    assert topics.all_batches == topics.batch("d").replace("/d/", "/+/")
    assert topics.all_summaries == topics.summary("d").replace("/d/", "/+/")
    assert topics.all_bundles == topics.bundle("a" * 64).replace("a" * 64, "+")


@pytest.mark.parametrize(
    "topic",
    ["", "er/v1/f", "er/v1/g/up/d/state", "er/v2/f/up/d/state", "er/v1/f/up/d/ack",
     "er/v1/f/down/d/state", "er/v1/f/up/all/state", "er/v1/f/up/D/state", "er/v1/f/up/d/state/x",
     "er/v1/f/down/all/bundle", "er/v1/f/down/all/bundle/xyz", "er/v1/f/down/all/ack",
     "er/v1/f/up//state", "er/v1/f/up/d/state\n"],
)  # fmt: skip
def test_other_topics_are_refused(topic: str) -> None:
    with pytest.raises(MessageError):
        Topics("f").parse(topic)


def test_topics_need_usable_ids() -> None:
    for bad in ("all", "a.b", "A", "", "a/b", "+"):
        with pytest.raises(MessageError, match="fleet"):
            Topics(bad)
        with pytest.raises(MessageError, match="device"):
            Topics("f").state(bad)
    with pytest.raises(MessageError, match="64 hexadecimal"):
        Topics("f").bundle("../../etc/passwd")


def test_the_limits_are_those_of_the_page() -> None:
    text = " ".join(PAGE.split())
    assert (
        f"{DEFAULT_LIMITS.message_bytes >> 20} MiB a message and "
        f"{DEFAULT_LIMITS.raw_bytes >> 20} MiB decompressed, "
        f"{DEFAULT_LIMITS.json_bytes >> 20} MiB of JSON, "
        f"{DEFAULT_LIMITS.header_bytes >> 10} KiB of header, {DEFAULT_LIMITS.rows:,} rows, "
        f"{DEFAULT_LIMITS.columns} columns, {DEFAULT_LIMITS.tensors:,} tensors, "
        f"{DEFAULT_LIMITS.cells:,} cells of counts"
    ) in text
