"""What did this device ever release? Answered from its file, beside the running agent."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.device.account import Account, read_account
from edge_runtime.errors import LedgerError, StoreError
from edge_runtime.generator import Bundle
from edge_runtime.messages import RowRequest
from tests.device.shop import Shop

PROGRAM = "import sys; from edge_runtime.cli import main; sys.exit(main())"


def ledger_verb(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "device", "ledger", "--config", str(config), *options],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def acknowledge(shop: Shop, kind: str, status: str = "accepted") -> None:
    for sha256, found in shop.store.connection.execute(
        "SELECT sha256, kind FROM outbox WHERE status = 'pending'"
    ).fetchall():
        if found == kind:
            shop.outbox.settle(sha256=sha256, status=status, reason="as the test says")


def states(account: Account) -> dict[str, str]:
    return {release.what: release.state for release in account.releases}


def test_every_release_with_its_cost_and_what_became_of_it(
    device: Any, kit: Any, bundle: Bundle, open_shop: Callable[..., Shop]
) -> None:
    shop = open_shop()
    census = shop.give(kit.census_plan(bundle.schema))
    assert shop.settled(census).status == "done"
    train = shop.give(kit.train_plan(bundle, steps=20))
    assert shop.settled(train).status == "done"
    found = read_account(shop.config)
    assert [(r.number, r.what, r.plan, r.round) for r in found.releases] == [
        (1, "census", "census", 0), (2, "anchor", "train", 1), (3, "training", "train", 1)
    ]  # fmt: skip
    assert {r.plan_id for r in found.releases} == {census.id, train.id}
    assert set(states(found).values()) == {"queued"}
    # The file's own figures, and no other account of them.
    assert found.epsilon_spent == pytest.approx(shop.ledger.epsilon_spent())
    assert found.epsilon_left == pytest.approx(8.0 - shop.ledger.epsilon_spent())
    after = [r.epsilon_after for r in found.releases]
    assert after == sorted(after, key=lambda e: e or 0.0)
    assert after[-1] == found.epsilon_spent
    assert all(0 < (r.epsilon or 0) <= (r.epsilon_after or 0) for r in found.releases)
    assert found.releases[0].epsilon == pytest.approx(found.releases[0].epsilon_after)
    sigma = float(shop.summaries()["census"][0].extra["sigma"])
    assert f"sigma {sigma:.4g} per count" in found.releases[0].mechanism
    assert "DP-SGD, noise multiplier" in found.releases[2].mechanism
    assert "20 steps" in found.releases[2].mechanism
    assert found.releases[2].waiting == len(shop.batches()) > 0
    assert found.unit == bundle.schema.privacy_unit

    acknowledge(shop, "summary")
    acknowledge(shop, "batch", "refused")
    told = {"census": "acknowledged", "anchor": "acknowledged", "training": "refused"}
    assert states(read_account(shop.config)) == told

    said = ledger_verb(device.write_config(), "--json")
    assert said.returncode == 0, said.stderr
    assert [release["state"] for release in json.loads(said.stdout)["releases"]] == [
        "acknowledged", "acknowledged", "refused"
    ]  # fmt: skip
    text = ledger_verb(device.write_config()).stdout
    assert f"left: {found.epsilon_left:.4g}" in text
    assert "last_part" not in text + said.stdout  # which parts of the store: how rows came in


def test_what_was_paid_and_has_not_left(
    device: Any, kit: Any, schema: Any, open_shop: Callable[..., Shop]
) -> None:
    shop = open_shop()
    plan = kit.census_plan(schema)
    shop.plans.offer(plan)
    shop.ledger.spend(
        key=f"{plan.id}/census", what="census", rdp=shop.ledger.rdp_spent() + 0.01,
        details={"round": 0, "sigma": "7/2"},
    )  # fmt: skip
    (release,) = read_account(shop.config).releases
    assert (release.state, release.message_id) == ("paid", None)
    assert release.mechanism == "discrete Gaussian, sigma 3.5 per count"


def test_rows_of_a_bundle_cost_nothing_and_are_listed(
    device: Any, kit: Any, bundle: Bundle, open_shop: Callable[..., Shop]
) -> None:
    shop = open_shop()
    shop.settled(shop.give(kit.census_plan(bundle.schema)))
    plan = kit.train_plan(bundle, kind="sample", train=None, anchor=None, epsilon=None,
                          rows=RowRequest(share=1.0, minimum=100, maximum=200))  # fmt: skip
    shop.settled(shop.give(plan))
    paid, free = read_account(shop.config).releases
    assert (free.number, free.what, free.epsilon, free.state) == (0, "rows", 0.0, "queued")
    assert paid.what == "census"


def test_without_privacy_there_is_no_number(
    device: Any, kit: Any, schema: Any, open_shop: Callable[..., Shop]
) -> None:
    shop = open_shop(epsilon='"none"')
    shop.settled(shop.give(kit.census_plan(schema, epsilon=None)))
    found = read_account(shop.config)
    assert (found.private, found.epsilon_spent, found.epsilon_left) == (False, None, None)
    assert "WITHOUT PRIVACY" in found.releases[0].mechanism
    assert "infinite, WITHOUT PRIVACY" in ledger_verb(device.write_config()).stdout


def test_beside_the_running_agent(device: Any, stand_in: Any, kit: Any, schema: Any) -> None:
    process = device.start()
    stand_in.publish_schema(schema)
    stand_in.wait_state("idle", plan=stand_in.publish_plan(kit.census_plan(schema)))
    text = ledger_verb(device.write_config()).stdout
    assert "census" in text
    assert "acknowledged" in text
    assert "of 8, left:" in text
    assert process.poll() is None


def test_a_file_that_cannot_be_read_says_so(
    device: Any, kit: Any, schema: Any, open_shop: Callable[..., Shop]
) -> None:
    with pytest.raises(StoreError, match="released nothing"):
        read_account(device.config())
    said = ledger_verb(device.write_config())
    assert said.returncode == 1
    assert "is not there" in said.stderr
    assert "Traceback" not in said.stderr
    assert not device.state_dir.exists()  # and nothing was made by looking

    file = device.state_dir / "device.sqlite"
    file.parent.mkdir()
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="keep it"):
        read_account(device.config())
    file.unlink()

    shop = open_shop()
    assert read_account(shop.config).releases == ()
    shop.settled(shop.give(kit.census_plan(schema)))
    with sqlite3.connect(shop.store.path) as database:
        database.execute("DROP TRIGGER ledger_no_change")
        database.execute("DROP TRIGGER ledger_no_recall")
        database.execute("UPDATE ledger_entries SET rdp = zeroblob(length(rdp))")
    database.close()
    with pytest.raises(LedgerError, match="damaged"):
        read_account(shop.config)
