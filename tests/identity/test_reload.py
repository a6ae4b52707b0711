"""A broker that is told again while it still reads its files reads them once more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from edge_runtime.fleet.broker_access import BrokerAccess
from tests.identity.site import wait_for

# As the main loop of Mosquitto 2.0 (src/loop.c): the flag that its handler sets is taken back at
# the end of the reading, so that what it was set for meanwhile is forgotten. The real one takes a
# millisecond, which a busy machine stretches: `tests.faults` met it, a test can wait for long.
_BROKER = """
import pathlib, signal, time
folder, told = pathlib.Path("."), False
def tell(*_):
    global told
    told = True
signal.signal(signal.SIGHUP, tell)
(folder / "ready").touch()
while True:
    time.sleep(0.01)
    if told:
        text = (folder / "enrol.passwd").read_text()
        (folder / "reading").touch()
        ends = time.process_time() + 0.3
        while time.process_time() < ends:
            pass
        (folder / "read").write_text(text)
        told = False
"""


def test_it_is_told_until_it_has_heard(tmp_path: Path) -> None:
    program = tmp_path / "mosquitto"  # by its name a process is known as the broker
    program.symlink_to(sys.executable)
    access = BrokerAccess(directory=tmp_path, fleet="f")
    access.write_tokens({})
    with subprocess.Popen([program, "-c", _BROKER], cwd=tmp_path) as broker:
        try:
            (tmp_path / "mosquitto.pid").write_text(str(broker.pid))
            wait_for((tmp_path / "ready").exists)
            os.kill(broker.pid, signal.SIGHUP)  # as another verb does
            wait_for((tmp_path / "reading").exists)
            access.write_tokens({"a" * 32: b"s" * 32})
            assert access.reload()
            wait_for(lambda: "a" * 32 in _text(tmp_path / "read"), "the new file is read")
        finally:
            broker.kill()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
