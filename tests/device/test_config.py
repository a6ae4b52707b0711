from __future__ import annotations

import textwrap
from pathlib import Path

import msgspec
import pytest

from edge_runtime.device import config as config_module
from edge_runtime.device import load_config
from edge_runtime.device.config import DeviceConfig, PrivacyConfig, SourceConfig
from edge_runtime.errors import ConfigError

SMALL = """
[device]
id = "a-1"
fleet = "f"
state_dir = "state"
[source]
path = "rows.csv"
[privacy]
epsilon = 8
"""


def write(path: Path, text: str) -> Path:
    file = path / "device.toml"
    file.write_text(text)
    return file


def test_the_documented_file_is_the_default(tmp_path: Path) -> None:
    documented = textwrap.dedent((config_module.__doc__ or "").split("::\n", 1)[1])
    shown = load_config(write(tmp_path, documented))
    small = load_config(write(tmp_path, SMALL))
    assert msgspec.structs.replace(shown, id="a-1", fleet="f") == small


def test_the_guide_shows_the_same_file(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "device.md").read_text()
    shown = guide.split("```toml\n", 1)[1].split("```", 1)[0]
    assert (
        shown.strip() == textwrap.dedent((config_module.__doc__ or "").split("::\n", 1)[1]).strip()
    )


def test_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    file = write(tmp_path, SMALL)
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config(file)
    assert config.state_dir == tmp_path / "state"
    assert config.source.path == tmp_path / "rows.csv"
    absolute = load_config(write(tmp_path, SMALL.replace('"rows.csv"', '"/data/rows.csv"')))
    assert absolute.source.path == Path("/data/rows.csv")


def test_epsilon_none_is_no_limit(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SMALL.replace("epsilon = 8", 'epsilon = "none"')))
    assert config.privacy.epsilon_limit is None
    assert load_config(write(tmp_path, SMALL)).privacy.epsilon_limit == 8.0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('id = "a-1"', 'id = "A.1"', ["device.id", "A.1", "a-z"]),
        ('id = "a-1"', 'id = "all"', ["device.id", "all"]),
        ('fleet = "f"', 'fleet = ""', ["device.fleet"]),
        ('fleet = "f"', "", ["device.fleet is missing", "docs/device.md"]),
        (
            'path = "rows.csv"',
            'path = "rows.csv"\nfolow = true',
            ["source.folow is no setting", "docs/device.md"],
        ),
        ('path = "rows.csv"', "path = 3", ["source.path", "3"]),
        ('path = "rows.csv"', 'path = ""', ["source.path"]),
        ("epsilon = 8", 'epsilon = "nono"', ["nono", "privacy.epsilon"]),
        ("epsilon = 8", "epsilon = -1", ["privacy.epsilon"]),
        ("epsilon = 8", "epsilon = inf", ["WITHOUT PRIVACY"]),
        ("epsilon = 8", "epsilon = 8\ndelta = 1.0", ["privacy.delta"]),
        ("epsilon = 8", "epsilon = 8\n[broker]\nport = 99999", ["broker.port"]),
        ("epsilon = 8", "epsilon = ", ["TOML"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    file = write(tmp_path, SMALL.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_config(tmp_path / "absent.toml")


def test_the_password_is_read_from_its_file(tmp_path: Path) -> None:
    text = SMALL + '[broker]\nusername = "a-1"\npassword_file = "secret"\n'
    config = load_config(write(tmp_path, text))
    with pytest.raises(ConfigError, match="password_file"):
        config.broker.password()
    (tmp_path / "secret").write_text("open sesame\n")
    assert config.broker.password() == "open sesame"
    assert load_config(write(tmp_path, SMALL)).broker.password() is None


def test_a_config_made_in_python_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"device\.id"):
        DeviceConfig(
            id="no dots.",
            fleet="f",
            state_dir=Path("s"),
            source=SourceConfig(path=Path("p")),
            privacy=PrivacyConfig(epsilon=1.0),
        )
