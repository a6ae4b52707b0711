"""Provisioning files, derived ids, TOML, and the broker's files, without a broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.aggregator.config import load_config
from edge_runtime.device.files import write_durably
from edge_runtime.device.provisioning import derived_id, load_provision, wipe_token
from edge_runtime.device.toml import toml_text
from edge_runtime.errors import ConfigError, FleetError
from edge_runtime.fleet.authority import Authority
from edge_runtime.fleet.broker_access import BrokerAccess
from edge_runtime.fleet.fleet_dir import FleetDir, init_fleet
from edge_runtime.fleet.tokens import make_provision
from edge_runtime.messages import Link, TlsFiles
from edge_runtime.process.agreement import Agreement

_VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans(),
)  # fmt: skip
_KEYS = st.text("abcxyz_", min_size=1, max_size=8)
_SECTIONS = st.dictionaries(
    _KEYS, st.one_of(_VALUES, st.dictionaries(_KEYS, _VALUES, max_size=3)), max_size=3
)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetDir:
    return init_fleet(tmp_path / "f", name="f", host="mq.example", port=1, enrol_port=2)


@settings(deadline=None)
@given(st.dictionaries(_KEYS, _SECTIONS, max_size=3))
def test_what_is_written_as_toml_is_read_back(sections: dict[str, dict[str, object]]) -> None:
    assert tomllib.loads(toml_text(sections)) == sections


def test_a_value_that_toml_has_not_is_named() -> None:
    with pytest.raises(ConfigError, match=r"a\.b: \[1\] is neither"):
        toml_text({"a": {"b": [1]}})


def test_ids_follow_from_the_board(tmp_path: Path) -> None:
    serial, machine = tmp_path / "serial-number", tmp_path / "machine-id"
    with pytest.raises(ConfigError, match=r"neither a serial number nor a machine id; set id"):
        derived_id((serial, machine))
    machine.write_text("0123456789abcdef0123456789abcdef\n")
    hashed = derived_id((serial, machine))
    assert hashed.startswith("board-")
    assert "0123456789" not in hashed
    assert derived_id((serial, machine)) == hashed
    serial.write_text("10000000A1B2C3D4\0")
    assert derived_id((serial, machine)) == "board-10000000a1b2c3d4"
    serial.write_text("unknown: / #\0")
    assert derived_id((serial, machine)) not in (hashed, "board-10000000a1b2c3d4")


def test_provisioning_files_are_checked(fleet: FleetDir, tmp_path: Path) -> None:
    with fleet.register() as register:
        text = make_provision(fleet, register, device="a", host="10.0.2.2")
    path = tmp_path / "p.toml"
    path.write_text(text)
    read = load_provision(path)
    assert (read.device, read.fleet.host, read.fleet.port, read.fleet.enrol_port) == (
        "a", "10.0.2.2", 1, 2,
    )  # fmt: skip
    assert read.fleet.ca.strip() == fleet.ca.strip()
    assert read.token.key == fleet.token_secret(read.token.id, "a")
    for old, new, words in (
        ('id = "a"', 'id = "A"', r"device\.id"),
        ("issued_unix_s", "issued", r"fleet\.issued is no setting"),
        ("port = 1\n", "port = 70000\n", r"fleet\.port"),
        ("BEGIN", "BEGUN", r"fleet\.ca"),
        ('secret = "', 'secret = "x', r"token\.secret"),
        ("[token]", "[tokens]", "missing|no setting"),
        ("epsilon = 8.0", "epsilon = 0", r"privacy\.epsilon"),
        ('path = "', "path = 7 # ", r"source\.path"),
        ("[token]", "[token", "is not a TOML file"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=words):
            load_provision(path)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_provision(path).token == read.token
    wipe_token(read)
    assert load_provision(path).token.wiped
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        load_provision(path)
    with pytest.raises(ConfigError, match="fleet token"):
        load_provision(tmp_path / "none")


def test_no_token_is_made_for_settings_with_a_mistake(fleet: FleetDir, tmp_path: Path) -> None:
    settings = tmp_path / "s.toml"
    with fleet.register() as register:
        for text in ("[sauce]\n", "[broker]\nport = 1\n", "[source"):
            settings.write_text(text)
            with pytest.raises(ConfigError, match="sections allowed here: source, privacy"):
                make_provision(fleet, register, device="a", settings=settings)
        with pytest.raises(ConfigError, match="cannot be read"):
            make_provision(fleet, register, device="a", settings=tmp_path / "none")
        with pytest.raises(ConfigError, match="good for nan days"):
            make_provision(fleet, register, device="a", days=float("nan"))
        assert register.tokens() == []


def test_keys_are_their_owners_alone(fleet: FleetDir) -> None:
    keys = [
        path for path in fleet.path.rglob("*") if path.suffix == ".key" or path.name == "key.pem"
    ]
    assert len(keys) == 9
    for path in [*keys, fleet.access.directory / "enrol.passwd"]:
        assert path.stat().st_mode & 0o777 == 0o600, path
    # What the broker's machine gets has no key but the broker's.
    assert [path.name for path in keys if path.parent == fleet.access.directory] == ["server.key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_writes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, 12345, 12346)
    old = os.umask(0)
    try:
        write_durably(folder / "key", b"k", mode=0o600)
    finally:
        os.umask(old)
    found = (folder / "key").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 12346, 0o600)


def test_a_fleet_is_not_overwritten_and_its_key_may_be_away(tmp_path: Path) -> None:
    options = {"name": "f", "host": "h", "port": 1, "enrol_port": 2}
    away = tmp_path / "stick" / "ca.key"
    away.parent.mkdir()
    made = init_fleet(tmp_path / "f", authority_key=away, **options)  # type: ignore[arg-type]
    assert not (made.path / "private" / "ca.key").exists()
    made.authority()
    away.rename(away.with_name("gone"))
    with pytest.raises(
        ConfigError, match=r"kept offline, bring it, or name its place as authority"
    ):
        FleetDir(made.path).authority()
    with pytest.raises(FleetError, match="holds a fleet already"):
        init_fleet(made.path, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="choose two"):
        init_fleet(tmp_path / "g", name="f", host="h", port=1, enrol_port=1)
    other = away.with_name("gone")
    key = other.read_bytes()
    with pytest.raises(FleetError, match="holds a key already"):
        init_fleet(tmp_path / "g", authority_key=other, **options)  # type: ignore[arg-type]
    assert other.read_bytes() == key
    assert not (tmp_path / "g").exists()
    with pytest.raises(ConfigError, match="fleet init"):
        FleetDir(tmp_path)
    (made.path / "fleet.toml").write_text("[fleet]\nname = 'f'\nx = 1\n")
    with pytest.raises(ConfigError, match=r"fleet\.x is no setting"):
        FleetDir(made.path)


def test_names_may_be_as_long_as_they_may(tmp_path: Path) -> None:
    # A common name has 64 characters at most.
    host = f"{60 * 'a'}.{60 * 'b'}.example"
    made = init_fleet(tmp_path / "f", name=63 * "f", host=host, port=1, enrol_port=2)
    server = x509.load_pem_x509_certificate((made.access.directory / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert host in names.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize("host", ["", "br\u00f6ker.example", "a b", "a\nb", "-a", "a:8883/"])
def test_a_host_that_no_certificate_can_name_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="no host name or address"):
        init_fleet(tmp_path / "f", name="f", host="h", port=1, enrol_port=2, also=[host])
    assert not (tmp_path / "f").exists()


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    made = init_fleet(mine, name="f", host="h", port=1, enrol_port=2)
    assert mine.stat().st_mode & 0o777 == 0o700
    old = os.umask(0)
    try:
        with FleetDir(
            init_fleet(tmp_path / "g", name="f", host="h", port=1, enrol_port=2).path
        ).register() as register:
            made.write_access(register)
    finally:
        os.umask(old)
    assert (tmp_path / "g").stat().st_mode & 0o777 == 0o755
    for path in (tmp_path / "g" / "fleet.sqlite", mine / "lock"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_later_list_of_revocations_is_dated_later(tmp_path: Path) -> None:
    # OpenSSL takes the later one, by the second; one from the future shuts everybody out.
    authority = Authority.create(
        fleet="f", certificate_path=tmp_path / "c", key_path=tmp_path / "k"
    )
    access = BrokerAccess(directory=tmp_path, fleet="f")
    dates = []
    for _ in range(3):
        access.write_revocations(authority, [])
        dates.append(x509.load_pem_x509_crl((tmp_path / "crl.pem").read_bytes()).last_update_utc)
    assert dates == sorted(set(dates))
    assert dates[-1] < datetime.now(UTC) - timedelta(minutes=50)


def test_the_aggregator_has_the_broker_s_list(fleet: FleetDir) -> None:
    def lists() -> set[bytes]:
        return {
            (fleet.path / folder / "crl.pem").read_bytes() for folder in ("aggregator", "broker")
        }

    (first,) = lists()
    tls = load_config(fleet.path / "aggregator.toml").broker.tls
    assert tls is not None
    assert tls.revoked == fleet.revoked
    fleet.rotate("aggregator")
    (second,) = lists()
    assert [len(x509.load_pem_x509_crl(pem)) for pem in (first, second)] == [0, 1]
    # It takes them: they are signed as they should be, the later one newer than the other.
    own = Agreement(tls=tls, fleet="f")
    for pem in (first, second):
        own.heed(x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER))
    assert not own.is_revoked(own.serial)


def test_client_ids_follow_from_the_key(fleet: FleetDir) -> None:
    first, second = (fleet.service_tls(name) for name in ("aggregator", "enrolment"))
    assert first.client_id("x") == first.client_id("x")
    assert len({first.client_id("x"), second.client_id("x"), "x"}) == 3
    assert TlsFiles(ca=first.ca).client_id("x") == "x"
    Link(host="h", port=1, client_id=first.client_id(63 * "x"))


def test_nobody_else_is_sent_a_signal(tmp_path: Path) -> None:
    access = BrokerAccess(directory=tmp_path, fleet="f")
    assert not access.reload()
    (tmp_path / "mosquitto.pid").write_text(str(os.getpid()))
    previous = signal.signal(signal.SIGHUP, lambda *_: pytest.fail("signalled"))
    try:
        assert not access.reload()
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_enrolment_runs_on_the_base_install() -> None:
    heavy = ["pandas", "pyarrow", "onnx", "onnxruntime", "rich", "scipy", "sqlalchemy", "sklearn"]
    probe = (
        f"import sys\nfor name in {heavy!r}: sys.modules[name] = None\n"
        "from edge_runtime.cli import main\nassert main(['device', 'enrol', '--help']) == 0\n"
        "import edge_runtime.device.enrol\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_agent_runs_without_the_libraries_of_enrolment() -> None:
    probe = (
        "import sys\nfrom edge_runtime.device.agent import Agent\n"
        "assert not {'cryptography', 'click'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
