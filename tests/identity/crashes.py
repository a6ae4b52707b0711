"""Enrols boards one after another, each cut off one step later, and then carried on.

Run alone: `python crashes.py FLEET_DIR WORK_DIR`. A cut is the end of a process of its own, before
a file is renamed or synced, as a power cut would be for what is on the disk. Prints a line per cut.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge_runtime.device.config import load_config
from edge_runtime.device.enrol import enrol
from edge_runtime.fleet.fleet_dir import FleetDir
from edge_runtime.fleet.tokens import make_provision

_CUT = 77
_MOST = 60


def run_once(board: Path, *, cut_at: int) -> int:
    """Enrol in a process of its own that ends before its `cut_at`-th step; 0: never."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    steps = 0

    def cut(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == cut_at:
                os._exit(_CUT)
            return call(*arguments)

        return step

    try:
        os.fsync, os.replace, os.rename = cut(os.fsync), cut(os.replace), cut(os.rename)  # type: ignore[assignment]
        enrol(source=board / "p.toml", state_dir=board / "state", config=board / "device.toml",
              timeout_s=60)  # fmt: skip
    except BaseException as error:  # noqa: BLE001 - a child must not run on as its parent
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def check_identity(board: Path, name: str) -> bool:
    """Whatever is in force is whole; returns whether there is anything."""
    identity = board / "state" / "identity"
    if not identity.exists():
        return False
    certificate = x509.load_pem_x509_certificate((identity / "certificate.pem").read_bytes())
    key = load_pem_private_key((identity / "key.pem").read_bytes(), password=None)
    assert key.public_key() == certificate.public_key()
    assert certificate.subject.rfc4514_string() == f"CN={name}"
    assert (identity / "key.pem").stat().st_mode & 0o777 == 0o600
    assert int((identity / "minimum-time").read_text()) > 1_700_000_000
    return True


def main(fleet_dir: Path, work: Path) -> None:
    fleet = FleetDir(fleet_dir)
    boards = [work / f"cut-{number}" for number in range(1, _MOST)]
    with fleet.register() as register:
        for board in boards:
            board.mkdir()
            (board / "p.toml").write_text(make_provision(fleet, register, device=board.name))
        fleet.write_access(register)
    assert fleet.access.reload()
    for number, board in enumerate(boards, start=1):
        before = tomllib.loads((board / "p.toml").read_text())
        code = run_once(board, cut_at=number)
        assert code in (0, _CUT), code
        provision = tomllib.loads((board / "p.toml").read_text())  # readable at any moment
        enrolled = check_identity(board, board.name)
        if provision != before:
            assert enrolled, "the token was wiped before there was an identity"
            assert load_config(board / "device.toml").id == board.name
        assert run_once(board, cut_at=0) == 0
        assert check_identity(board, board.name)
        config = load_config(board / "device.toml")
        assert config.broker.tls is not None
        config.broker.tls.context()
        assert set(tomllib.loads((board / "p.toml").read_text())["token"]["secret"]) == {"-"}
        assert before["token"]["secret"] not in (board / "p.toml").read_text()
        assert sorted(path.name for path in board.iterdir()) == ["device.toml", "p.toml", "state"]
        assert sorted(path.name for path in (board / "state").iterdir()) == [
            "enrolment.lock", "identity",
        ]  # fmt: skip
        with fleet.register() as register:
            assert len(register.certificates(board.name)) == 1
        print("cut", number, enrolled, provision != before)
        if code == 0:  # it needs fewer steps than this
            return
    raise AssertionError("more steps than boards")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
