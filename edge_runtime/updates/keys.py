"""The fleet's update keys: an offline one for the root, three that sign what is published.

::

    private/root.key           names the others in root.json; away from the network, like ca.key
    aggregator/updates/        for the aggregator's machine
        1.root.json, ...       every root there ever was: devices go from one to the next
        <key id>.key           targets, snapshot and timestamp (0600)

A key is named by its id, so that the newest root decides which are in force: it is written last
and after the keys that it names.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from edge_runtime.errors import ConfigError

__all__ = ["ONLINE_ROLES", "load_roots", "load_signer", "make_roots", "read_root", "rotate_roots"]

ONLINE_ROLES = ("targets", "snapshot", "timestamp")
#: like the certificates of the fleet
_ROOT_LIFE = timedelta(days=3650)

#: writes a file durably: path, content, mode
Write = Callable[[Path, bytes, int], None]


def make_roots(*, root_key: Path, online: Path, write: Write) -> None:
    """Make all keys and the first root of a fleet.

    Parameters
    ----------
    root_key : Path
        Where the root's key goes.
    online : Path
        The directory of the online keys and of all roots; it must exist.
    write : callable (path, data, mode)
        Writes a file durably.
    """
    signer = _new_key(root_key, write)
    root = Root(consistent_snapshot=False)
    root.add_key(signer.public_key, Root.type)
    _publish(root, [signer], online, write)


def rotate_roots(*, root_key: Path, online: Path, write: Write, root_too: bool) -> None:
    """Put new online keys in force, and a new root key if asked, by the next root.

    The keys that were in force before are removed: nothing that they sign counts any more.

    Parameters
    ----------
    root_key, online, write
        As for `make_roots`.
    root_too : bool
        Whether the root's own key is replaced as well. The old one signs its successor.

    Raises
    ------
    ConfigError
        The root's key is not there, or is not that of the newest root.
    """
    roots = load_roots(online)
    root = read_root(roots[max(roots)], online)
    fresh = root_key.with_name(f"{root_key.name}.new")
    _settle(fresh, root_key, root)  # where an earlier rotation was cut off
    old = _read_key(root_key) if root_key.exists() else None
    if old is None or old.public_key.keyid not in root.roles[Root.type].keyids:
        raise ConfigError(
            f"{root_key} is not the key of root {root.version} in {online}; bring the offline key "
            "to where fleet.toml says that it is"
        )
    signers = [old]
    if root_too:
        new = _new_key(fresh, write)
        root.revoke_key(old.public_key.keyid, Root.type)
        root.add_key(new.public_key, Root.type)
        signers.append(new)
    root.version += 1
    _publish(root, signers, online, write)
    _settle(fresh, root_key, root)


def _settle(fresh: Path, root_key: Path, root: Root) -> None:
    """Put a new root key in the place of the old one if the newest root names it."""
    if fresh.exists():
        if _read_key(fresh).public_key.keyid in root.roles[Root.type].keyids:
            fresh.replace(root_key)
        else:
            fresh.unlink()


def load_roots(online: Path) -> dict[int, str]:
    """Return every root by its version.

    Raises
    ------
    ConfigError
        There is none, one is missing in between, or one cannot be read.
    """
    try:
        found = {
            int(path.name.partition(".")[0]): path.read_text(encoding="utf-8")
            for path in online.glob("*.root.json")
        }
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"a root in {online} cannot be read ({error}); it must hold 1.root.json and all that "
            "follow it, readable for the aggregator, and nothing else that ends in .root.json"
        ) from error
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise ConfigError(
            f"{online} must hold 1.root.json and all that follow it; copy the directory from where "
            "edge-runtime fleet init made it"
        )
    return found


def read_root(text: str, online: Path) -> Root:
    """Read a root of `load_roots`.

    Raises
    ------
    ConfigError
        It is no root, as while it is being copied.
    """
    try:
        return Metadata[Root].from_bytes(text.encode()).signed
    except DeserializationError as error:
        raise ConfigError(
            f"the newest root in {online} is damaged or not all there ({error}); copy it again"
        ) from error


def load_signer(online: Path, root: Root, role: str) -> CryptoSigner:
    """Load the key that a root names for a role.

    Raises
    ------
    ConfigError
        It is not there.
    """
    for keyid in root.roles[role].keyids:
        path = online / f"{keyid}.key"
        if path.exists():
            return _read_key(path)
    raise ConfigError(f"{online} has no key for {role} of root {root.version}; copy it there")


def _publish(root: Root, signers: list[CryptoSigner], online: Path, write: Write) -> None:
    """Give the root new online keys, sign it, and remove the keys that it no longer names."""
    for role in ONLINE_ROLES:
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        signer = CryptoSigner.generate_ed25519()
        write(online / f"{signer.public_key.keyid}.key", signer.private_bytes, 0o600)
        root.add_key(signer.public_key, role)
    root.expires = datetime.now(UTC).replace(microsecond=0) + _ROOT_LIFE
    metadata = Metadata(root)
    for signer_of_root in signers:
        metadata.sign(signer_of_root, append=True)
    data = metadata.to_bytes(JSONSerializer(compact=True))
    write(online / f"{root.version}.root.json", data, 0o644)
    for path in online.glob("*.key"):
        if path.stem not in root.keys:
            path.unlink()


def _new_key(path: Path, write: Write) -> CryptoSigner:
    signer = CryptoSigner.generate_ed25519()
    write(path, signer.private_bytes, 0o600)
    return signer


def _read_key(path: Path) -> CryptoSigner:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an Ed25519 key")
    return CryptoSigner(key)
