"""The archive for whoever helps: what is in it, and above all what is not."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.device.diag import write_diag
from edge_runtime.device.store import Store
from edge_runtime.errors import ConfigError
from edge_runtime.generator import Bundle
from edge_runtime.schema import Schema

#: in the file, in the store and in the password file; nothing else comes near them
PLANTED = ("SECRETVILLE", "1234.5", "987654.3", "hunter2-of-the-board", "rubbish-in-a-code")

FILES = [
    "config.json",
    "doctor.json",
    "journal.txt",
    "ledger.json",
    "machine.json",
    "packages.txt",
    "state.json",
    "store.json",
    "unit.txt",
]


def unpack(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        names = archive.getnames()
        assert names == sorted(names)
        assert all(member.mode == 0o600 for member in archive.getmembers())
        found = {}
        for name in names:
            file = archive.extractfile(name)
            assert file is not None
            found[name.split("/")[1]] = io.TextIOWrapper(file).read()
    return found


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journalctl and a systemctl that print their arguments: not every machine has systemd."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("journalctl", "systemctl"):
        program = directory / name
        program.write_text(f'#!/bin/sh\necho "{name} $*"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_it_holds_what_helps_and_no_row(
    device: Any,
    stand_in: Any,
    kit: SimpleNamespace,
    bundle: Bundle,
    journal: None,
) -> None:
    schema: Schema = bundle.schema
    rows = kit.make_rows(kit.ROWS - 2)
    rows += [["true", "5", "SECRETVILLE", "1234.5"], ["false", "6", "EWR", "987654.3"]]
    kit.write_csv(device.source, rows)
    password = device.directory / "password"
    password.write_text("hunter2-of-the-board\n")
    process = device.start()
    stand_in.publish_schema(schema)
    stand_in.publish_bundle(bundle)
    stand_in.wait_state("idle", plan=stand_in.publish_plan(kit.census_plan(schema)))
    plan = stand_in.publish_plan(kit.train_plan(bundle, steps=20))
    done = stand_in.wait_state("idle", plan=plan, timeout_s=60.0)
    config = device.write_config()
    config.write_text(
        config.read_text().replace(
            "[broker]", f'[broker]\nusername = "board"\npassword_file = "{password}"'
        )
    )
    store = Store(device.state_dir / "device.sqlite")
    store.put("planted", b"rubbish-in-a-code")
    exact = store.code_rows(bundle.codec.digest)
    assert exact == kit.ROWS
    store.close()

    out = device.directory / "diag.tar.gz"
    program = "import sys; from edge_runtime.cli import main; sys.exit(main())"
    said = subprocess.run(
        [sys.executable, "-c", program, "diag", "--config", str(config), "--out", str(out)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert str(out) in said.stdout
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert process.poll() is None
    found = unpack(out)
    assert list(found) == FILES

    settings = json.loads(found["config.json"])
    assert settings["broker"]["username"] == "board"
    assert settings["broker"]["password_file"] == "left out"
    assert settings["limits"]["look_s"] == 5.0
    checks = {row["check"]: row for row in json.loads(found["doctor.json"])}
    assert checks["source"]["problem"] == ""
    ledger = json.loads(found["ledger.json"])
    assert [entry["what"] for entry in ledger["entries"]] == ["census", "anchor", "training"]
    assert ledger["entries"][-1]["epsilon_after"] == pytest.approx(done.epsilon_spent)
    assert json.loads(found["state.json"])["plan_id"] == plan.id
    assert [entry["status"] for entry in json.loads(found["store.json"])["plans"]] == ["done"] * 2
    machine = json.loads(found["machine.json"])
    assert machine["python"] == sys.version.split()[0]
    assert machine["free_disk_mb"].startswith("left out")
    assert "\nnumpy==" in found["packages.txt"]
    assert "journalctl --unit edge-runtime-device --lines 2000" in found["journal.txt"]
    assert "systemctl show edge-runtime-device --property ActiveState," in found["unit.txt"]

    names = sorted(str(path) for path in device.directory.rglob("*"))
    for name, text in found.items():
        for word in PLANTED:
            assert word not in text, name
        # Digests and versions may hold any digits; an exact count stands alone.
        assert not re.search(rf"(?<![\w.-]){exact}(?![\w.-])", text), name
    write_diag_again = device.directory / "again.tar.gz"
    write_diag(device.config(), write_diag_again)
    assert list(unpack(write_diag_again)) == FILES
    # Nothing was left beside it, and nothing made in the state directory.
    made = {str(path) for path in device.directory.rglob("*")} - set(names)
    assert made == {str(write_diag_again)}


def test_it_is_made_where_nothing_works(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker, no store, no journal, no source: that is when it is needed."""
    monkeypatch.setenv("PATH", str(device.directory / "empty"))
    device.source.unlink()
    out = device.directory / "diag.tar.gz"
    out.write_bytes(b"an older one")
    out.chmod(0o644)
    write_diag(device.config(), out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    found = unpack(out)
    assert list(found) == FILES
    assert "not read: unable to open database file" in found["ledger.json"]
    assert "not read" in found["store.json"]
    assert "not known: connections are refused" in found["state.json"]
    assert "not read" in found["journal.txt"]
    assert not device.state_dir.exists()


def test_a_place_that_cannot_be_written_is_named(device: Any) -> None:
    out = device.directory / "none" / "diag.tar.gz"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_diag(device.config(), out)


def test_a_release_without_privacy_is_called_so(device: Any, kit: SimpleNamespace) -> None:
    from edge_runtime.privacy import Ledger  # noqa: PLC0415 - this test's alone

    device.state_dir.mkdir()
    store = Store(device.state_dir / "device.sqlite")
    ledger = Ledger(store.connection, epsilon_limit=None, delta=1e-5)
    ledger.spend(key="a", what="census", rdp=None, details={"rows": kit.ROWS})
    ledger.spend(key="b", what="anchor", rdp=np.full(len(ledger.rdp_spent()), 0.1), details={})
    store.close()
    out = device.directory / "diag.tar.gz"
    write_diag(device.config(), out)
    text = unpack(out)["ledger.json"]
    assert [entry["epsilon_after"] for entry in json.loads(text)["entries"]] == [
        "WITHOUT PRIVACY",
        "WITHOUT PRIVACY",
    ]
    assert str(kit.ROWS) not in text
