"""Emulated boards: packages, a root to install them in, and what a machine must have for that."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY / "tools/arm"), str(REPOSITORY / "tools/deb")]

import emulate  # noqa: E402 - tools are programs beside each other, not a package
import root as arm_root  # noqa: E402

ARCHITECTURES = ("arm64", "amd64")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    for name, takes in (("image", "half an hour"), ("deb", "ten minutes")):
        if not config.getoption(f"--{name}"):
            skip = pytest.mark.skip(reason=f"takes {takes}: run by make test-{name}")
            for item in mine:
                if item.get_closest_marker(name):
                    item.add_marker(skip)
    if not config.getoption("--arm"):
        reason = "emulated boards: run by make test-arm, as CI does"
    elif lacking := emulate.missing():
        # CI installs it all: a skip there would hide that nothing was checked.
        if "CI" in os.environ:
            pytest.exit(f"the emulated boards need: {lacking}", returncode=1)
        reason = f"needs: {lacking}"
    else:
        return
    for item in mine:
        item.add_marker(pytest.mark.skip(reason=reason))


class Packages:
    """The packages of this commit, for upgrades in two revisions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.revisions = {1: directory / "1", 2: directory / "2"}

    def path(self, name: str, *, arch: str = "arm64", revision: int = 1) -> Path:
        (found,) = self.revisions[revision].glob(f"{name}_*_{arch}.deb")
        return found


def build(out: Path, *arguments: str) -> None:
    """Build packages, not compressed: that is quicker, and quicker to unpack under emulation."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools/deb/build.py", "--out", out, "--level", "0",
         *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def next_revision(package: Path, out: Path) -> None:
    """Pack a package again with a higher revision, also of those that it depends on."""
    tree = out / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("-1~", "-2~"), encoding="utf-8")
    pack = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree]
    subprocess.run(
        [*pack, out / package.name.replace("-1~", "-2~")], stdout=subprocess.DEVNULL, check=True
    )
    shutil.rmtree(tree)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Build arm64 and amd64, and pack arm64 once more with a higher revision."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    made = Packages(folder / "packages")
    # One process builds them; the others wait.
    with (folder / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made.directory / "done").exists():
            shutil.rmtree(made.directory, ignore_errors=True)
            work = ("--work", str(made.directory / "work"))
            build(made.revisions[1], *work, "--arch", "arm64")
            build(made.revisions[1], *work, "--arch", "amd64", "--packages", "edge-runtime")
            made.revisions[2].mkdir()
            next_revision(made.path("edge-runtime"), made.revisions[2])
            (made.directory / "done").touch()
    return made


@pytest.fixture(scope="session")
def base() -> Path:
    """Return the directory of root.tar, vmlinuz and initrd.gz."""
    emulate.prepare()
    return arm_root.make_root()


@pytest.fixture(scope="session")
def fresh_root(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an arm64 root as Debian leaves it, without our packages."""
    directory = tmp_path_factory.mktemp("arm64") / "root"
    arm_root.unpack(base / "root.tar", directory)
    return directory


@pytest.fixture(scope="session")
def site(base: Path) -> Path:
    """Return a site-packages with the project's aarch64 wheel and what its tests need."""
    # The package of the tools, which are found from here on only.
    from tests.arm.unit_tests import make_site  # noqa: PLC0415

    return make_site()
