"""The catalogue's tables. A change of them is a new version."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = [
    "UPGRADED",
    "VERSION",
    "bundles",
    "devices",
    "messages",
    "metadata",
    "rounds",
    "settings",
]

#: of the tables, and of what the files hold that they name
VERSION = "3"
#: the versions that `migration` brings up to this one
UPGRADED = ("1", "2")

metadata = sa.MetaData()

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("device", sa.String(63), nullable=False, index=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("round", sa.Integer, nullable=False, index=True),
    sa.Column("plan_id", sa.String(32), nullable=False),
    sa.Column("part", sa.Integer, nullable=False),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("depth", sa.Integer, nullable=False),
    sa.Column("bundle_digest", sa.String(64), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("epsilon", sa.Float, nullable=True),
    sa.Column("received_at", sa.String(40), nullable=False),
)

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("plan_id", sa.String(64), nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("started_unix_s", sa.Float, nullable=False),
    sa.Column("ended_unix_s", sa.Float, nullable=True),
    sa.Column("reason", sa.Text, nullable=False, default=""),
)

bundles = sa.Table(
    "bundles",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("depth", sa.Integer, nullable=False),
    sa.Column("parent", sa.String(64), nullable=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("device", sa.String(63), primary_key=True),
    sa.Column("state", sa.JSON, nullable=False),
    sa.Column("seen_at", sa.String(40), nullable=False),
)
