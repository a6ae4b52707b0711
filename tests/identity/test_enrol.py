"""A board becomes a device, over a real broker and with the enrolment service beside it."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from edge_runtime.device.config import load_config
from edge_runtime.device.enrol import Enrolled, enrol
from edge_runtime.device.identity import IdentityDir
from edge_runtime.device.provisioning import load_provision, wipe_token
from edge_runtime.errors import (
    ConfigError,
    EdgeRuntimeError,
    EnrolmentError,
    LinkError,
)
from edge_runtime.fleet import authority
from edge_runtime.fleet.issuing import serve
from edge_runtime.fleet.tokens import make_provision
from edge_runtime.messages import new_id
from edge_runtime.messages.enrolment import (
    EnrolmentReply,
    encode_sealed,
)
from tests.identity.site import ROOT, Site, wait_for


@pytest.fixture
def served(site: Site) -> Iterator[Site]:
    """The fleet with its enrolment service."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=serve, args=(site.fleet.path,), kwargs={"stop": stop, "ready": ready}
    )
    thread.start()
    assert ready.wait(60)
    yield site
    stop.set()
    thread.join()


class Board:
    """A board's files."""

    def __init__(self, folder: Path, text: str) -> None:
        folder.mkdir()
        self.source, self.state = folder / "edge-runtime.toml", folder / "state"
        self.config = folder / "etc" / "device.toml"
        self.source.write_text(text)

    def enrol(self, timeout_s: float = 60.0) -> Enrolled:
        return enrol(
            source=self.source, state_dir=self.state, config=self.config, timeout_s=timeout_s
        )

    def enrol_apart(self) -> subprocess.CompletedProcess[str]:
        """Enrol in a process of its own: root takes on another user's rights for all threads."""
        program = "import sys; from edge_runtime.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", program, "device", "enrol", "--from", self.source,
             "--state", self.state, "--config", self.config, "--timeout", "60"],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip


def make_board(
    site: Site, name: str = "ward-7", *, folder: str = "", days: float = 14.0, any_id: bool = False
) -> Board:
    with site.fleet.register() as register:
        text = make_provision(site.fleet, register, device="" if any_id else name, days=days)
        site.fleet.write_access(register)
    assert site.fleet.access.reload()
    if any_id:
        text = text.replace("\n[fleet]", f'\n[device]\nid = "{name}"\n\n[fleet]')
    return Board(site.directory.parent / (folder or name), text)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that other users get to: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def test_a_board_enrols_and_is_let_in(served: Site, open_to_all: Path) -> None:
    board = make_board(served)
    board.state = open_to_all / "state"
    secret = load_provision(board.source).token.secret
    size = board.source.stat().st_size
    board.state.mkdir()
    owner = 12345 if os.geteuid() == 0 else os.geteuid()
    os.chown(board.state, owner, -1)  # the agent's own user, where root enrols for it
    done = board.enrol_apart()
    assert (done.returncode, done.stdout) == (0, "ward-7 is enrolled in fleet clinics\n"), (
        done.stderr
    )

    config = load_config(board.config)
    assert (config.id, config.fleet, config.state_dir) == ("ward-7", "clinics", board.state)
    assert (config.broker.port, config.privacy.epsilon) == (served.fleet.port, 8.0)
    assert config.broker.tls is not None
    aggregator = served.aggregator()
    served.party(config.broker.tls).ready().send(f"{ROOT}/up/ward-7/state", b"here")
    aggregator.wait_got(f"{ROOT}/up/ward-7/state", b"here")

    identity = board.state / "identity"
    assert (board.state / "enrolment.lock").stat().st_uid == owner
    assert (identity / "key.pem").stat().st_mode & 0o777 == 0o600
    assert abs(int((identity / "minimum-time").read_text()) - time.time()) < 60
    assert {path.stat().st_uid for path in (identity, *identity.iterdir())} == {owner}
    assert secret not in board.source.read_text()
    assert board.source.stat().st_size == size

    key = (identity / "key.pem").read_bytes()
    done = board.enrol_apart()
    assert done.stdout == "ward-7 was enrolled already in fleet clinics\n", done.stderr
    assert (identity / "key.pem").read_bytes() == key


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray")
@pytest.mark.parametrize("name", ["enrolment.lock", "identity.new", "identity"])
def test_root_is_not_led_out_of_the_state_directory(
    served: Site, open_to_all: Path, name: str
) -> None:
    # An agent that was taken over knows that root will enrol it again.
    board = make_board(served)
    token = load_provision(board.source).token.id
    board.state = open_to_all / "state"
    board.state.mkdir()
    os.chown(board.state, 12345, 12345)
    roots = open_to_all / "roots"
    if name == "enrolment.lock":
        roots.write_text("dear to root")
    else:
        roots.mkdir(mode=0o755)
        (roots / "token").write_text("another" if name == "identity" else token)
    (board.state / name).symlink_to(roots)
    before = {path: path.stat() for path in (roots, *roots.glob("*"))}
    done = board.enrol_apart()
    assert "Traceback" not in done.stderr  # to be kept from enrolling harms the agent alone
    for path in (roots, *roots.glob("*")):
        now = path.stat()
        assert (now.st_uid, now.st_mode, now.st_size) == (
            0, before[path].st_mode, before[path].st_size,
        )  # fmt: skip


def test_a_configuration_that_is_not_for_everybody_stays_so(served: Site) -> None:
    board = make_board(served)
    board.config.parent.mkdir()
    board.config.write_text("[training]\nminimum_rows = 9\n")
    group = 12346 if os.geteuid() == 0 else os.getegid()
    os.chown(board.config, -1, group)
    board.config.chmod(0o640)
    board.enrol()
    for path in board.config.parent.iterdir():
        found = path.stat()
        assert (found.st_mode & 0o777, found.st_gid) == (0o640, group), path


def test_cut_off_at_any_step_it_carries_on(served: Site, tmp_path: Path) -> None:
    script = Path(__file__).with_name("crashes.py")
    (tmp_path / "boards").mkdir()
    done = subprocess.run(
        [sys.executable, script, served.fleet.path, tmp_path / "boards"],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cuts = [line.split()[2:] for line in done.stdout.splitlines()]
    # It was cut before, between and after the identity and the wiping.
    assert len(cuts) > 15
    states = list(dict.fromkeys(tuple(cut) for cut in cuts))
    assert states == [("False", "False"), ("True", "False"), ("True", "True")]


def test_what_is_on_the_board_stays_unless_the_file_says_otherwise(served: Site) -> None:
    board = make_board(served)
    board.config.parent.mkdir()
    old = (
        '[device]\nid = "x"\nfleet = "y"\nstate_dir = "/z"\nlog_level = "debug"\n'
        '[broker]\nhost = "old"\nusername = "u"\nkeepalive_s = 77\n'
        '[source]\npath = "other.csv"\n[privacy]\nepsilon = 1.5\n[training]\nminimum_rows = 9\n'
    )
    board.config.write_text(old)
    board.enrol()
    config = load_config(board.config)
    assert (config.id, config.log_level, config.training.minimum_rows) == ("ward-7", "debug", 9)
    assert (config.broker.host, config.broker.username) == ("127.0.0.1", "")
    assert config.broker.keepalive_s == 77
    assert (config.privacy.epsilon, config.source.path.name) == (8.0, "rows.csv")
    assert board.config.with_name("device.toml.before-enrolment").read_text() == old


def test_a_new_token_enrols_again_with_a_new_key(served: Site) -> None:
    board = make_board(served)
    board.enrol()
    tls = load_config(board.config).broker.tls
    assert tls is not None
    device = served.party(tls).ready()
    key = tls.key.read_bytes() if tls.key else b""
    served.revoke("ward-7")

    def out() -> bool:
        device.link.publish(f"{ROOT}/up/ward-7/state", b"x").wait(0.05)
        return "was revoked" in device.link.problem

    wait_for(out)
    board.source.write_text(make_board(served, folder="again").source.read_text())
    assert board.enrol().fresh
    assert tls.key is not None
    assert tls.key.read_bytes() != key
    wait_for(device.link.connected.is_set, "being let in again")  # the same link, the new files
    aggregator = served.aggregator()
    device.send(f"{ROOT}/up/ward-7/state", b"back")
    aggregator.wait_got(f"{ROOT}/up/ward-7/state", b"back")


def test_a_token_is_good_for_one_key(served: Site) -> None:
    board = make_board(served)
    text = board.source.read_text()
    board.enrol()
    thief = Board(served.directory.parent / "thief", text)
    with pytest.raises(EnrolmentError, match="used before, with another key"):
        thief.enrol()
    assert not (thief.state / "identity").exists()
    assert not thief.config.exists()


def test_a_mistake_in_the_settings_is_found_before_the_token_is_used(served: Site) -> None:
    board = make_board(served)
    text = board.source.read_text()
    board.source.write_text(text.replace("[privacy]\nepsilon = 8.0", "[privacy]\nepsilon = -1"))
    with pytest.raises(ConfigError, match=r"privacy\.epsilon"):
        board.enrol()
    board.source.write_text(text.partition("[source]")[0])
    with pytest.raises(ConfigError, match=r"device\.toml cannot be made from .* source is missing"):
        board.enrol()
    board.source.write_text(text.replace("[source]", "[sauce]"))
    with pytest.raises(ConfigError, match="sauce is no setting"):
        board.enrol()
    with served.fleet.register() as register:
        assert [token.state for token in register.tokens()] == ["open"]
    board.source.write_text(text)
    assert board.enrol().fresh


def test_a_used_token_on_a_board_without_identity_says_what_to_do(served: Site) -> None:
    board = make_board(served)
    board.enrol()
    other = Board(served.directory.parent / "other", board.source.read_text())
    with pytest.raises(EnrolmentError, match="was used, and not for the identity"):
        other.enrol()


def test_a_file_that_cannot_be_wiped_is_said(served: Site) -> None:
    board = make_board(served)
    provision = load_provision(board.source)
    board.source.unlink()
    board.source.mkdir()
    with pytest.raises(ConfigError, match=r"cannot be wiped .* mount the partition writable"):
        wipe_token(provision)


def in_vain(board: Board, wanted: str, *, first_s: float = 1.0) -> EdgeRuntimeError:
    """Enrol with more and more patience: a busy machine may not hear the reason in a second."""
    for timeout_s in (first_s, 5.0, 25.0):
        with pytest.raises(EdgeRuntimeError) as caught:
            board.enrol(timeout_s=timeout_s)
        if wanted in str(caught.value):
            return caught.value
    pytest.fail(f"not the reason: {caught.value}")


def test_what_keeps_it_from_writing_is_said_and_passes(served: Site) -> None:
    board = make_board(served)
    board.state.mkdir()
    (board.state / "identity.new").write_text("")  # in the way of a directory
    with pytest.raises(EnrolmentError, match=r"identity\.new cannot be written .* carries on"):
        board.enrol()
    (board.state / "identity.new").unlink()
    assert board.enrol().fresh


def test_without_a_service_it_says_who_is_missing(site: Site) -> None:
    assert isinstance(in_vain(make_board(site), "fleet serve"), EnrolmentError)


def test_an_expired_token_is_not_let_in(served: Site) -> None:
    board = make_board(served, days=-1)
    assert isinstance(in_vain(board, "token has expired or is unknown"), LinkError)


def test_a_clock_that_is_behind_is_named(served: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same to a device: the broker's certificate begins two days from now.
    monkeypatch.setattr(authority, "_BACKDATED", timedelta(days=-2))
    broker = served.fleet.access.directory
    certificate = served.authority.issue_server(
        authority.new_key(broker / "server.key").public_key(), ["127.0.0.1"]
    )
    (broker / "server.pem").write_bytes(authority.pem(certificate))
    board = make_board(served)  # which makes the broker read them, soon
    there = ("127.0.0.1", served.fleet.enrol_port)
    wait_for(lambda: ssl.get_server_certificate(there).encode() == authority.pem(certificate))
    said = in_vain(board, "is not valid yet by this machine's clock, which says ")
    assert isinstance(said, LinkError)
    assert time.strftime("%Y-%m-%d", time.gmtime()) in str(said)
    issued = re.sub(r"issued_unix_s = \d+", "issued_unix_s = 99999999999", board.source.read_text())
    board.source.write_text(issued)
    said = in_vain(board, "before the provisioning file")
    assert re.search(r"clock is wrong: it says .* before the provisioning file", str(said))


def test_an_answer_made_without_the_secret_changes_nothing(site: Site) -> None:
    # The broker itself, or whoever took it over, answers in place of the authority.
    board = make_board(site)
    token = load_provision(board.source).token
    impostor = site.party(site.fleet.service_tls("enrolment"), [f"{ROOT}/enrol/+/request"]).ready()
    outcome: list[Exception] = []

    def attempt() -> None:
        outcome.append(in_vain(board, "nobody answers", first_s=3.0))

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_for(lambda: impostor.got, "a request")
    for status in ("refused", "issued"):
        reply = EnrolmentReply(
            token=token.id, nonce=new_id(), status=status, time_unix_s=1, certificate="x"  # type: ignore[arg-type]
        )  # fmt: skip
        impostor.send(f"{ROOT}/enrol/{token.id}/reply", encode_sealed(reply, b"guess" * 8))
        impostor.send(f"{ROOT}/enrol/{token.id}/reply", b"junk")
    thread.join()
    assert isinstance(outcome[0], EnrolmentError)
    assert not IdentityDir(board.state).path.exists()
    assert tomllib.loads(board.source.read_text())["token"]["secret"] == token.secret
