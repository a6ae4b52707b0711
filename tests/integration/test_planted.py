"""What a fleet lets out, searched for what was planted: values of rows, counts of rows, secrets.

One whole run through mutual TLS, every process at its most talkative, with a device whose rows hold
unusual values and three whose files stop them. Everything that left or that anybody would be shown
or sent is opened (`opened.py`) and searched.
"""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge_runtime.device.toml import toml_text
from edge_runtime.fleet.broker import find_broker, free_port
from edge_runtime.fleet.tokens import make_provision
from edge_runtime.messages import Link, decode_state, decode_status
from edge_runtime.messages.seal import decode_sealed, is_sealed
from tests.identity.site import FLEET, ROOT, Site, wait_for
from tests.integration.opened import Leaf, finite, open_file, opened

SCHEMA = """{
  "format": "edge-runtime-schema", "version": 1, "name": "wards",
  "columns": [
    {"name": "late", "kind": "boolean", "condition": true},
    {"name": "ward", "kind": "category", "values": ["EWR", "JFK", "LGA"], "other": true},
    {"name": "delay", "kind": "integer", "low": -60, "high": 300, "nullable": true},
    {"name": "level", "kind": "number", "low": 0, "high": 1000}
  ]
}"""

#: rows of the device that learns, and of each that is stopped
ROWS = {"north": 13_337, "south": 16_529, "east": 18_211, "west": 19_463}
BAD_ROW = 12_289

#: of columns that allow them, beyond bounds, not in the schema, of a wrong type, in the place of a
#: header: what they hold is the same secret
NUMBERS = (123.456789, 987654.25, 4711471.0, 31415.9265, 246.813579)
LONG = "Qx7-" * 900
WORDS = ("SECRETVILLE-7", "about-31415.9265", "HEADVILLE-9", "Jane-Doe-4471", LONG[:40])
PASSWORD = "hunter2-of-the-board"

PROGRAM = "import sys; from edge_runtime.cli import main; sys.exit(main())"


class Recorder:
    """Everything that crosses the broker, read by one that may read everything."""

    def __init__(self, port: int) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.link = Link(
            host="127.0.0.1", port=port, client_id="recorder", topics=["#"],
            on_message=lambda topic, payload, _: self.seen.append((topic, payload)),
        ).start()  # fmt: skip
        self.link.wait_connected(20)

    def last(self, topic: str) -> bytes | None:
        return next((p for t, p in reversed(self.seen) if t == topic and p), None)

    def state_of(self, device: str) -> tuple[str, str]:
        payload = self.last(f"{ROOT}/up/{device}/state")
        if payload is None:
            return "", ""
        # North seals what it sends; the others have no certificate.
        state = decode_state(decode_sealed(payload).body if is_sealed(payload) else payload)
        return state.status, state.reason

    def phase(self) -> str:
        payload = self.last(f"{ROOT}/down/all/status")
        return decode_status(payload).phase if payload else ""


class Wards:
    """A fleet of real processes whose outputs are kept."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.plain_port, self.metrics_port = free_port(), free_port()
        # One more door, without rules: for the recorder, and for devices with a password.
        site.stop()
        with site.fleet.access.configuration.open("a") as configuration:
            configuration.write(f"\nlistener {self.plain_port} 127.0.0.1\nallow_anonymous true\n")
        site.start()
        site.wait_listening([self.plain_port])
        self.recorder = Recorder(self.plain_port)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.shown: dict[str, bytes] = {}
        self.token = ""

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, name: str, *command: object) -> None:
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *map(str, command)], stdout=log, stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        assert process.wait(30) == 0, self.log(name).read_text()[-3000:]

    def call(self, *arguments: object, codes: tuple[int, ...] = (0,)) -> None:
        """Run a verb and keep what it says."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            capture_output=True, timeout=120, check=False,
            env={**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"},
        )  # fmt: skip
        text = done.stdout + done.stderr
        assert done.returncode in codes, text.decode()
        self.shown[" ".join(map(str, arguments))] = text

    def enrol(self, name: str) -> Path:
        """Give a device its identity by the verbs that people use."""
        fleet = self.site.fleet
        (fleet.path / "device-settings.toml").write_text(
            f'[source]\nkind = "csv"\npath = "{self.folder / name}.csv"\npoll_s = 0.5\n'
            "[privacy]\nepsilon = 1.0\ndelta = 1e-5\n"
        )
        with fleet.register() as register:
            text = make_provision(fleet, register, device=name)
            fleet.write_access(register)
        fleet.access.reload()
        self.token = tomllib.loads(text)["token"]["secret"]
        provision, config = self.folder / "provision.toml", self.folder / f"{name}.toml"
        provision.write_text(text)
        provision.chmod(0o600)
        self.start("serve", "-c", PROGRAM, "fleet", "serve", fleet.path)
        state = self.folder / "state" / name
        self.call("device", "enrol", "--from", provision, "--state", state, "--config", config)
        self.stop("serve")
        config.write_text(config.read_text().replace("[device]", '[device]\nlog_level = "debug"'))
        return config

    def plain(self, name: str) -> Path:
        """Configure a device that shows a password instead of a certificate."""
        password = self.folder / "password"
        password.write_text(f"{PASSWORD}\n")
        sections: dict[str, dict[str, object]] = {
            "device": {"id": name, "fleet": FLEET, "state_dir": str(self.folder / "state" / name),
                       "log_level": "debug"},
            "broker": {"port": self.plain_port, "username": "board",
                       "password_file": str(password)},
            "source": {"path": str(self.folder / f"{name}.csv"), "poll_s": 2.0},
            "privacy": {"epsilon": 1.0},
        }  # fmt: skip
        config = self.folder / f"{name}.toml"
        config.write_text(toml_text(sections))
        return config

    def aggregator_config(self) -> Path:
        fleet = self.site.fleet
        (fleet.path / "schema.json").write_text(SCHEMA)
        tls = fleet.service_tls("aggregator")
        config = fleet.path / "aggregator.toml"
        config.write_text(
            f"""
            log_level = "DEBUG"
            seed = 5
            fleet = {{ name = "{FLEET}", devices = 1 }}
            data = {{ dir = "data" }}
            schema = {{ path = "schema.json" }}
            privacy = {{ epsilon = 1.0, delta = 1e-5 }}
            rounds = {{ count = 1, quorum = 1, deadline_s = 100 }}
            train = {{ steps = 60, expected_batch = 64 }}
            rows = {{ share = 0.1, minimum = 100, maximum = 1000 }}
            fusion = {{ hidden = 32, bins = 16, epochs = 2, max_seconds = 10 }}
            release = {{ rows = 500 }}
            metrics = {{ port = {self.metrics_port} }}
            [broker]
            host = "{fleet.host}"
            port = {fleet.port}
            [broker.tls]
            ca = "{tls.ca}"
            certificate = "{tls.certificate}"
            key = "{tls.key}"
            [updates]
            keys = "aggregator/updates"
            """
        )
        return config

    def scrape(self) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            self.shown["metrics"] = answer.read()

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.recorder.link.close(timeout_s=1)

    def everything(self) -> Iterator[Leaf]:
        """All that left, and all that somebody is shown, is sent or keeps somewhere else."""
        for topic, payload in list(self.recorder.seen):
            yield Leaf("topic", topic.encode())
            yield from opened(payload, topic)
        for name, text in self.shown.items():
            yield from opened(text, f"output of {name}")
        logs = [*self.folder.glob("*.log"), self.site.log]
        archives = list(self.folder.glob("*.tar.gz"))
        data = [path for path in (self.site.fleet.path / "data").rglob("*") if path.is_file()]
        for path in [*logs, *archives, *data]:
            yield from open_file(path, path.name)


@pytest.fixture
def wards(tmp_path: Path) -> Iterator[Wards]:
    if find_broker("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    site = Site(tmp_path / "fleet")
    made = Wards(site, tmp_path)
    try:
        yield made
    finally:
        made.close()
        site.close()


def write_rows(path: Path, rows: int, *, first: str = "late,ward,delay,level") -> None:
    rng = np.random.default_rng(rows)
    late, ward = rng.random(rows) < 0.3, rng.integers(3, size=rows)
    delay, level = rng.integers(-60, 301, rows), rng.uniform(0, 1000, rows)
    lines = [
        f"{str(late[i]).lower()},{('EWR', 'JFK', 'LGA')[ward[i]]},{delay[i]},{level[i]:.3f}"
        for i in range(rows)
    ]
    bad = {
        "north": {7: f"true,SECRETVILLE-7,4711471,{NUMBERS[0]}", 8: f"true,{LONG},5,987654.25"},
        "south": {BAD_ROW - 1: f"true,EWR,5,{WORDS[1]}"},
        "west": {BAD_ROW - 1: "true,EWR,Jane-Doe-4471,5,7,8,9"},
        "east": {},
    }[path.stem]
    for place, line in bad.items():
        lines[place] = line
    path.write_text("\n".join([first, *lines]) + "\n")


def write_journalctl(folder: Path) -> None:
    """A journal that holds what the device wrote: not every machine has systemd."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "journalctl"
    program.write_text(f'#!/bin/sh\ncat "{folder}/$2.log"\n')
    program.chmod(0o755)


def spellings(number: float) -> set[bytes]:
    """A number as text and as the bytes of a float."""
    texts = {f"{number:.12g}", f"{number:,.12g}", f"{number:.9e}", str(number).replace(".", ",")}
    packed = {struct.pack(order, number) for order in ("<d", ">d", "<f", ">f")}
    return packed | {text.encode() for text in texts if len(text) > 6}


def key_spellings(path: Path) -> set[bytes]:
    """A private key: lines of its file, and the secret number itself."""
    data = path.read_bytes()
    secrets = {line for line in data.splitlines() if len(line) > 20 and b"-----" not in line}
    if data.startswith(b"-----"):
        key = load_pem_private_key(data, password=None)
        assert isinstance(key, EllipticCurvePrivateKey)
        data = key.private_numbers().private_value.to_bytes(32, "big")
    return secrets | {data, data.hex().encode(), base64.b64encode(data)[:-1]}


def counted(number: int) -> re.Pattern[bytes]:
    """A count of rows as text, with or without separators, and not inside a longer number."""
    thousands, rest = divmod(number, 1000)
    # Not the seconds and milliseconds of a time of day either.
    text = rf"(?<![\w.,])(?<!\d:){thousands}[,_' ]?{rest:03d}(?:\.0+)?(?!\w|\.\d)"
    return re.compile(text.encode())


def find_leaks(
    leaves: list[Leaf], *, needles: set[bytes], counts: set[int], numbers: tuple[float, ...]
) -> list[str]:
    patterns = [counted(count) for count in counts]
    private = {float(count) for count in counts} | set(numbers)
    leaks = []
    for place, value in leaves:
        if isinstance(value, float):
            if value in private:
                leaks.append(f"{place}: {value}")
            continue
        leaks += [f"{place}: {needle!r}" for needle in needles if needle in value]
        leaks += [
            f"{place}: ...{value[max(0, found.start() - 60) : found.end() + 20]!r}"
            for pattern in patterns
            for found in pattern.finditer(value)
        ]
    return leaks


def test_the_search_finds_what_it_is_for(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    needles = {b"SECRETVILLE", *spellings(NUMBERS[0]), *key_spellings(key)}
    said = [
        b"13,337 rows", b"n=13337\n", b'{"rows": 13337.0}', b'{"a": {"b": [1, 13337]}}',
        b"level: 123.456789", struct.pack("<d", NUMBERS[0]) * 2, b"000102030405060708090a0b0c0d0e"
        b"0f101112131415161718191a1b1c1d1e1f", b'{"reason": "SECRETVI\\u004c\\u004cE"}',
    ]  # fmt: skip
    for text in said:
        leaves = list(opened(text, "said"))
        assert find_leaks(leaves, needles=needles, counts={13_337}, numbers=NUMBERS), text
    harmless = [b"06:00:13,337", b"0.13337", b"1133370", b"x13337f", b"13337.25", b"123.4567"]
    for text in harmless:
        leaves = list(opened(text, "said"))
        assert not find_leaks(leaves, needles=needles, counts={13_337}, numbers=NUMBERS), text


@pytest.mark.slow
def test_nothing_planted_gets_out(wards: Wards, tmp_path: Path) -> None:
    for name, rows in ROWS.items():
        # The first line of east is no header but a row.
        head = "true,HEADVILLE-9,17,246.813579" if name == "east" else "late,ward,delay,level"
        write_rows(tmp_path / f"{name}.csv", rows, first=head)
    write_journalctl(tmp_path)
    configs = {"north": wards.enrol("north")}
    token = wards.token
    configs |= {name: wards.plain(name) for name in ("south", "east", "west")}
    aggregator = wards.aggregator_config()
    wards.start("aggregator", "-m", "edge_runtime.aggregator", "--config", aggregator)
    # The others have no certificate, and count for nothing: without north there is no plan.
    for name, config in configs.items():
        wards.start(name, "-m", "edge_runtime.device", "--config", config)
    seen = wards.recorder
    for name in ("south", "east", "west"):
        wait_for(lambda name=name: "cannot be read" in seen.state_of(name)[1], name, timeout_s=60)
    wait_for(lambda: seen.phase() in ("done", "failed"), "the end", timeout_s=120)
    assert seen.phase() == "done", wards.log("aggregator").read_text()[-3000:]
    wait_for(lambda: seen.state_of("north")[0] == "idle", "the last acknowledgement")

    wards.scrape()
    data = wards.site.fleet.path / "data"
    wards.call("aggregator", "status", data)
    wards.call("aggregator", "status", data, "--json")
    for name, config in configs.items():
        wards.call("device", "ledger", "--config", config)
        wards.call("device", "ledger", "--config", config, "--json")
        wards.call("doctor", "--config", config, "--json", codes=(0, 1))
        wards.call("diag", "--config", config, "--out", tmp_path / f"{name}.tar.gz", "--unit", name)
    for name in ("north", "south", "east", "west", "aggregator"):
        wards.stop(name)

    needles = {word.encode() for word in (*WORDS, PASSWORD, token)}
    needles |= {text for number in NUMBERS for text in spellings(number)}
    needles |= key_spellings(tmp_path / "state" / "north" / "identity" / "key.pem")
    fleet = wards.site.fleet.path
    for key in ("private/ca.key", "private/enrolment.key", "aggregator/key.pem"):
        needles |= key_spellings(fleet / key)
    sizes = {(tmp_path / f"{name}.csv").stat().st_size for name in ROWS}
    counts = {*ROWS.values(), *sizes, BAD_ROW}
    # The estimate from noisy counts is public, also where it happens to be right.
    release = json.loads((fleet / "data" / "release" / "release.json").read_bytes())
    counts.discard(release["estimated_real_rows"])
    leaves = list(wards.everything())
    # The search has reached what travels packed, and what is kept in databases and tables.
    places = " ".join({place for place, _ in leaves})
    for wanted in (":zstd", "code_level", "census.0", "ledger.json", "journal.txt", ":messages"):
        assert wanted in places, wanted
    assert finite(leaves) > 1000
    leaks = find_leaks(leaves, needles=needles, counts=counts, numbers=NUMBERS)
    assert not leaks, "\n".join(leaks)
