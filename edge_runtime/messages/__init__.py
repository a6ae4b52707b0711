"""Everything that travels between devices and the aggregator, and the link it travels over.

Bytes from outside become objects through strict `decode_*` functions that raise nothing but
`MessageError` and its subclasses. docs/protocol.md describes topics and payloads for readers
without this package.
"""

from __future__ import annotations

from edge_runtime.messages.ack import Ack, decode_ack, encode_ack
from edge_runtime.messages.alarms import Alarm, Alarms, decode_alarms, encode_alarms
from edge_runtime.messages.batch import (
    METADATA_KEY,
    OpenBatch,
    checked_codes,
    decode_batch,
    encode_batch,
    open_batch,
    peek_batch,
)
from edge_runtime.messages.connection import PublishHandle
from edge_runtime.messages.fields import FORMAT_VERSION, check_id, new_id
from edge_runtime.messages.header import Header, PrivacyStatement, decode_header, encode_header
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits
from edge_runtime.messages.link import Link
from edge_runtime.messages.moments import MOMENT_UNITS, MomentsRequest, products
from edge_runtime.messages.plan import (
    AnchorRequest,
    Plan,
    RowRequest,
    ScoreRequest,
    TrainRequest,
    UpdateRequest,
    decode_plan,
    encode_plan,
    in_rollout,
)
from edge_runtime.messages.state import (
    AggregatorStatus,
    DeviceProgress,
    DeviceState,
    decode_state,
    decode_status,
    encode_state,
    encode_status,
)
from edge_runtime.messages.summary import (
    SCORE_UNITS,
    columns_of_table,
    decode_summary,
    encode_summary,
    name_of_table,
    peek_summary,
)
from edge_runtime.messages.topics import Address, Topics
from edge_runtime.messages.update import clip_update, decode_update, encode_update, update_norm
from edge_runtime.process.tls import TlsFiles

__all__ = [
    "DEFAULT_LIMITS",
    "FORMAT_VERSION",
    "METADATA_KEY",
    "MOMENT_UNITS",
    "SCORE_UNITS",
    "Ack",
    "Address",
    "AggregatorStatus",
    "Alarm",
    "Alarms",
    "AnchorRequest",
    "DeviceProgress",
    "DeviceState",
    "Header",
    "Limits",
    "Link",
    "MomentsRequest",
    "OpenBatch",
    "Plan",
    "PrivacyStatement",
    "PublishHandle",
    "RowRequest",
    "ScoreRequest",
    "TlsFiles",
    "Topics",
    "TrainRequest",
    "UpdateRequest",
    "check_id",
    "checked_codes",
    "clip_update",
    "columns_of_table",
    "decode_ack",
    "decode_alarms",
    "decode_batch",
    "decode_header",
    "decode_plan",
    "decode_state",
    "decode_status",
    "decode_summary",
    "decode_update",
    "encode_ack",
    "encode_alarms",
    "encode_batch",
    "encode_header",
    "encode_plan",
    "encode_state",
    "encode_status",
    "encode_summary",
    "encode_update",
    "in_rollout",
    "name_of_table",
    "new_id",
    "open_batch",
    "peek_batch",
    "peek_summary",
    "products",
    "update_norm",
]
