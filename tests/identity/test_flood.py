"""One device floods a real broker; the round of the nine others goes on as if it were not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.fleet.broker import find_broker

_NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]


def run_fleet(directory: Path, size: int, rules: str = "rules") -> dict[str, Any]:
    said = subprocess.run(
        [*_NAMESPACE, sys.executable, "-m", "tests.identity.flooded", directory, str(size), rules],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    return json.loads(said.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def _network() -> None:
    missing = [name for name in ("nft", "ip", "unshare") if shutil.which(name) is None]
    if find_broker("mosquitto") is None:
        missing.append("mosquitto")
    if missing:
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up(f"not here: {', '.join(missing)} (Debian: nftables, iproute2, mosquitto)")
    # Nothing that could be installed: some containers forbid it.
    if subprocess.run([*_NAMESPACE, "true"], check=False).returncode != 0:
        pytest.skip("this kernel gives no network of its own to this user")


# The flood's messages tiny, as many as can be, or large.
@pytest.mark.slow
@pytest.mark.usefixtures("_network")
@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_flood_starves_nobody(tmp_path: Path, size: int) -> None:
    found = run_fleet(tmp_path / "fleet", size)
    assert found["accepted"] == {f"d{number}": 3 for number in range(9)}
    # Without a flood: 5 s of a busy machine; without the rules: a minute and more.
    assert found["took_s"] < 60.0
    # However fast it would: what the rule lets through, and what sockets and buffers hold.
    assert found["flood_mb"] < 16.0 + 0.25 * found["took_s"]
    assert found["aggregator_peak_mb"] < 256
