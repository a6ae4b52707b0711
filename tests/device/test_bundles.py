from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edge_runtime.device.bundles import BundleCache
from edge_runtime.errors import BundleError, DigestError, SizeError, StoreError
from edge_runtime.generator import Bundle


def test_a_bundle_comes_back(tmp_path: Path, bundle: Bundle) -> None:
    cache = BundleCache(directory=tmp_path / "bundles")
    assert cache.load(bundle.digest) is None
    assert not cache.has(bundle.digest)
    cache.put(bundle.digest, bundle.to_bytes())
    assert cache.has(bundle.digest)
    loaded = BundleCache(directory=tmp_path / "bundles").load(bundle.digest)
    assert loaded is not None
    assert loaded.digest == bundle.digest


def test_other_bytes_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    cache = BundleCache(directory=tmp_path)
    with pytest.raises(DigestError):
        cache.put(bundle.digest, bundle.to_bytes() + b"x")
    with pytest.raises(SizeError):
        BundleCache(directory=tmp_path, max_bytes=100).put(bundle.digest, bundle.to_bytes())
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_again(tmp_path: Path, bundle: Bundle) -> None:
    cache = BundleCache(directory=tmp_path)
    cache.put(bundle.digest, bundle.to_bytes())
    file = next(tmp_path.glob("*.bundle"))
    file.write_bytes(file.read_bytes()[:-10])
    assert cache.load(bundle.digest) is None
    assert not cache.has(bundle.digest)


def test_bytes_that_are_no_bundle_stay_an_error(tmp_path: Path) -> None:
    cache = BundleCache(directory=tmp_path)
    data = b"not a bundle"
    cache.put(hashlib.sha256(data).hexdigest(), data)
    with pytest.raises(BundleError):
        cache.load(hashlib.sha256(data).hexdigest())


def test_the_newest_and_those_in_the_slots_are_kept_and_halves_are_removed(tmp_path: Path) -> None:
    cache = BundleCache(directory=tmp_path, keep=2)
    digests = []
    for age in range(4):
        data = bytes([age])
        digests.append(hashlib.sha256(data).hexdigest())
        cache.put(digests[-1], data)
        os.utime(tmp_path / f"{digests[-1]}.bundle", (age, age))
    cache.prune(but={digests[1]})
    assert [cache.has(digest) for digest in digests] == [False, True, True, True]
    cache.remove(digests[3])
    assert not cache.has(digests[3])
    (tmp_path / "half.part").write_bytes(b"x")
    BundleCache(directory=tmp_path)
    assert not (tmp_path / "half.part").exists()


def test_a_disk_that_refuses_is_a_store_error(tmp_path: Path, bundle: Bundle) -> None:
    cache = BundleCache(directory=tmp_path / "bundles")
    (tmp_path / "bundles").rmdir()
    with pytest.raises(StoreError):
        cache.put(bundle.digest, bundle.to_bytes())
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / f"{bundle.digest}.bundle").mkdir()
    with pytest.raises(StoreError):
        cache.load(bundle.digest)
    with pytest.raises(StoreError):
        cache.put(bundle.digest, bundle.to_bytes())
    assert not list((tmp_path / "bundles").glob("*.part"))
