"""What paho is imported without, and that nobody misses it. Each in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(program: str, path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_others_import_the_real_module_afterwards(tmp_path: Path) -> None:
    run(
        """
import sys
import edge_runtime.messages
assert "http.client" not in sys.modules
import urllib.request
assert urllib.request.urlopen
from edge_runtime.messages.paho import mqtt
assert mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)._get_proxy() is None
""",
        tmp_path,
    )


def test_with_pysocks_paho_finds_a_proxy(tmp_path: Path) -> None:
    (tmp_path / "socks.py").write_text(
        "HTTP, SOCKS4, SOCKS5 = 3, 1, 2\ndef get_default_proxy():\n    return None\n",
        encoding="utf-8",
    )
    run(
        """
import os
os.environ |= {"mqtt_proxy": "http://proxy.example:3128", "no_proxy": ""}
from edge_runtime.messages.paho import mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client._host = "broker.example"
found = client._get_proxy()
assert (found["proxy_addr"], found["proxy_port"]) == ("proxy.example", 3128), found
""",
        tmp_path,
    )
