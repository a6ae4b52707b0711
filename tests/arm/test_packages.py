"""The Debian packages: what is in them, and their life in an arm64 root under emulation."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import emulate
import pytest

from tests.arm import bytecode
from tests.arm.conftest import ARCHITECTURES, REPOSITORY, Packages, build

pytestmark = pytest.mark.arm

UNITS = sorted((REPOSITORY / "tools/deb/debian").glob("*.service"))
STATE = "/var/lib/edge-runtime"


def _field(path: Path, name: str) -> str:
    command = ["dpkg-deb", "--field", path, name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _listing(path: Path) -> str:
    command = ["dpkg-deb", "--contents", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_exposure_of_the_services(unit: Path) -> None:
    """Lower is better; enrolment and clock need root for a moment, the services never."""
    most = 15 if unit.stem in ("edge-runtime-device", "edge-runtime-aggregator") else 70
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_contents(packages: Packages, arch: str) -> None:
    path = packages.path("edge-runtime", arch=arch)
    listing = _listing(path)
    assert _field(path, "Architecture") == arch
    assert "python3.11" in _field(path, "Depends")
    for name in (
        "/etc/edge-runtime/device.toml", "/usr/bin/edge-runtime",
        "/usr/lib/systemd/system/edge-runtime-device.service",
        "/usr/lib/sysusers.d/edge-runtime.conf", "kernel/_native.abi3.so",
        # what `fleet init` fills in
        "/opt/edge-runtime/share/edge-runtime/broker_config/mosquitto-fleet.conf",
    ):  # fmt: skip
        assert name in listing
    assert "onnxruntime" not in listing
    assert "__pycache__" not in listing
    owners = {line.split()[1] for line in listing.splitlines()}
    assert owners == {"root/root"}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_lintian_finds_no_error(packages: Packages, arch: str) -> None:
    files = packages.revisions[1].glob(f"*_{arch}.deb")
    # These are not compressed; those for people are.
    plain = "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball"
    ours = ["--fail-on", "error", "--suppress-tags", plain]
    done = subprocess.run(["lintian", *ours, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_same_commit_gives_the_same_bytes(packages: Packages, tmp_path: Path) -> None:
    build(tmp_path / "out", "--work", str(tmp_path / "work"), "--arch", "arm64",
          "--packages", "edge-runtime")  # fmt: skip
    first, again = packages.path("edge-runtime"), next((tmp_path / "out").glob("*.deb"))
    assert first.name == again.name
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, again)]
    assert digests[0] == digests[1]


def test_install_upgrade_remove_purge(packages: Packages, fresh_root: Path) -> None:
    """A chroot without a running systemd; a running service is upgraded in test_boot."""

    def run(*command: str) -> str:
        done = emulate.run(
            fresh_root, command, board="pi4", timeout_s=1200,
            binds={packages.revisions[1]: "/packages/1", packages.revisions[2]: "/packages/2"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    old, new = (packages.path("edge-runtime", revision=number).name for number in (1, 2))
    config = fresh_root / "etc/edge-runtime/device.toml"
    wanted = fresh_root / "etc/systemd/system/multi-user.target.wants/edge-runtime-device.service"

    run("dpkg", "--install", f"/packages/1/{old}")
    assert wanted.is_symlink()
    assert run("stat", "-c", "%U:%G %a", STATE).strip() == "edge-runtime:edge-runtime 750"
    said = run("edge-runtime", "doctor")
    assert "aarch64" in said
    assert "PROBLEM" not in said
    # Not configured: one line that says what to do, and exit code 2, which ends the restarts.
    refused = emulate.run(
        fresh_root,
        ["/opt/edge-runtime/bin/python3", "-I", "-m", "edge_runtime.device", "--config",
         "/etc/edge-runtime/device.toml"],
        board="pi4",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "device.id" in refused.stdout

    config.write_text(config.read_text().replace("CHANGE-ME", "mine"), encoding="utf-8")
    kept = fresh_root / STATE.lstrip("/") / "ledger-stands-in"
    kept.write_text("paid", encoding="utf-8")
    # The first installation has made its own.
    bytecode.bring([packages.path("edge-runtime")], fresh_root)
    run("dpkg", "--install", f"/packages/2/{new}")
    assert "-2~" in run("dpkg-query", "--show", "edge-runtime")
    assert "mine" in config.read_text()
    assert kept.read_text() == "paid"

    run("dpkg", "--remove", "edge-runtime")
    assert config.exists()
    assert kept.exists()
    assert not (fresh_root / "opt/edge-runtime").exists(), "no bytecode may be left"

    run("dpkg", "--purge", "edge-runtime")
    assert not config.exists()
    assert not (fresh_root / STATE.lstrip("/")).exists()
    assert not wanted.is_symlink()
    assert re.search(r"no packages found", emulate.run(
        fresh_root, ["dpkg-query", "--show", "edge-runtime"], board="pi4"
    ).stdout)  # fmt: skip
