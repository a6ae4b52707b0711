"""The operator's and the board's verbs, as a person calls them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.cli.main import run
from edge_runtime.device.config import load_config
from edge_runtime.device.keys import certificate_request, load_or_make_key
from edge_runtime.messages import TlsFiles
from tests.identity.site import ROOT, Site, wait_for

_PROGRAM = "import sys; from edge_runtime.cli import main; sys.exit(main())"


@pytest.fixture
def service(site: Site) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "fleet", "serve", site.fleet.path],
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "connected to the broker" in process.stderr.readline()
        yield process
        process.kill()


def test_from_a_token_to_a_device_and_out_again(
    site: Site, service: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(site.fleet.path)
    assert run(["fleet", "token", directory, "--device", "ward-7"]) == 0
    out, err = capsys.readouterr()
    assert err == ""  # the broker runs here and was told
    board = tmp_path / "edge-runtime.toml"
    board.write_text(out)
    assert run(["fleet", "list", directory]) == 0
    assert "ward-7" in capsys.readouterr().out

    options = ["--state", str(tmp_path / "state"), "--config", str(tmp_path / "device.toml")]
    enrol = ["device", "enrol", "--from", str(board), *options, "--timeout", "60"]
    assert run(enrol) == 0
    assert capsys.readouterr().out == "ward-7 is enrolled in fleet clinics\n"
    assert run(enrol) == 0
    assert capsys.readouterr().out == "ward-7 was enrolled already in fleet clinics\n"
    tls = load_config(tmp_path / "device.toml").broker.tls
    assert tls is not None
    device = site.party(tls).ready()

    assert run(["fleet", "list", directory, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {entry["name"]: entry["state"] for entry in listed["certificates"]} == {
        "aggregator": "valid", "enrolment": "valid", "ward-7": "valid",
    }  # fmt: skip
    assert listed["tokens"] == []

    assert run(["fleet", "revoke", directory, "ward-7"]) == 0
    said = capsys.readouterr().out
    assert "revoked: ward-7" in said
    assert f"the aggregator reads {site.fleet.revoked} within seconds; if it runs elsewhere" in said

    def out_of_it() -> bool:
        device.link.publish(f"{ROOT}/up/ward-7/state", b"x").wait(0.05)
        return "was revoked" in device.link.problem

    wait_for(out_of_it)
    assert run(["fleet", "revoke", directory, "nobody"]) == 1
    assert "nobody is called 'nobody'" in capsys.readouterr().err

    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0


def test_a_certificate_by_hand(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = load_or_make_key(tmp_path / "key.pem")
    (tmp_path / "a.csr").write_text(certificate_request(key, "ignored"))
    call = ["fleet", "enrol", str(site.fleet.path)]
    files = ["--request", str(tmp_path / "a.csr"), "--out", str(tmp_path / "a.pem")]
    assert run([*call, "aggregator", *files]) == 9
    assert "choose another device id" in capsys.readouterr().err
    assert run([*call, "by-hand", *files]) == 0
    tls = TlsFiles(
        ca=site.fleet.path / "ca.pem", certificate=tmp_path / "a.pem", key=tmp_path / "key.pem"
    )
    aggregator = site.aggregator()
    site.party(tls).ready().send(f"{ROOT}/up/by-hand/state", b"here")
    aggregator.wait_got(f"{ROOT}/up/by-hand/state", b"here")


def test_services_and_broker_get_new_keys_while_they_run(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(site.fleet.path)
    aggregator, device = site.aggregator(), site.device("a")
    stolen = site.directory / "stolen"
    shutil.copytree(site.fleet.path / "aggregator", stolen)
    old = (site.fleet.access.directory / "server.pem").read_bytes()
    assert run(["fleet", "rotate", directory, "aggregator"]) == 0
    assert run(["fleet", "rotate", directory, "broker"]) == 0
    out, err = capsys.readouterr()
    assert "copy all of it there" in out
    assert err == ""
    assert (site.fleet.access.directory / "server.pem").read_bytes() != old
    thief = site.party(
        TlsFiles(
            ca=stolen / "ca.pem", certificate=stolen / "certificate.pem", key=stolen / "key.pem"
        )
    )
    wait_for(lambda: "was revoked" in thief.link.problem, "the old one being out")
    site.stop()  # which ends all connections
    site.start()
    wait_for(lambda: aggregator.connects > 1, "the aggregator with its new certificate")
    device.send(f"{ROOT}/up/a/state", b"here")
    aggregator.wait_got(f"{ROOT}/up/a/state", b"here")
    assert run(["fleet", "revoke", directory, "aggregator"]) == 1
    assert "fleet rotate" in capsys.readouterr().err


def test_init_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "fleet"
    call = ["fleet", "init", str(directory), "--fleet", "f", "--broker", "mq.example"]
    assert run([*call, "--also", "10.0.0.1"]) == 0
    said = capsys.readouterr().out
    for word in ("mosquitto -c", "aggregator run", "fleet serve", "fleet token"):
        assert word in said
    assert run(call) == 1
    assert "holds a fleet already" in capsys.readouterr().err
    # Nobody runs a broker from it: the note says what is left to do.
    assert run(["fleet", "token", str(directory), "--device", "a"]) == 0
    assert "no broker runs from" in capsys.readouterr().err
    assert run(["fleet", "token", str(directory), "--device", "A"]) == 1
    assert "not usable in topics" in capsys.readouterr().err
