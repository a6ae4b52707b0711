"""Agreeing on a key with the aggregator, in a process that ends with it.

`cryptography` takes 12 MB, and the agent is to do without. The process is asked on its standard
input and answers on its standard output; it reads the device's own files itself.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from edge_runtime.errors import AuthenticityError, EdgeRuntimeError
from edge_runtime.process.tls import TlsFiles

if TYPE_CHECKING:
    from edge_runtime.process.agreement import Agreement

__all__ = ["AGGREGATOR", "Answer", "Question", "agree_apart"]

#: the common name of its certificate, which is given to no device
AGGREGATOR = "aggregator"

#: a Pi Zero 2 imports cryptography in a second; whoever needs longer is stuck
_TIMEOUT_S = 60.0
#: for a hostile certificate; an ordinary one takes a tenth of both
_MEMORY_BYTES, _CPU_S = 1 << 30, 30


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be agreed on.

    Parameters
    ----------
    ca, certificate, key : str
        Paths of the device's files.
    fleet, device : str
        Whose messages.
    offered : bytes
        The certificate (DER) that is said to be the aggregator's.
    in_force : bytes
        The one that the present key was agreed on with; empty without a key.
    listed : bytes
        What is said to be a newer list of revoked certificates (DER); empty: nothing.
    kept : bytes
        The newest that was taken so far; empty: none.
    now_unix_s : float
        The earliest that it can be now, whatever the clock says.
    """

    ca: str
    certificate: str
    key: str
    fleet: str
    device: str
    offered: bytes
    in_force: bytes = b""
    listed: bytes = b""
    kept: bytes = b""
    now_unix_s: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Parameters
    ----------
    key : bytes
        32 of them; empty: none, see `reason`.
    certificate : bytes
        The device's own that the key goes with, DER.
    reason : str
        Why there is no key.
    failed : bool
        Nothing was found out about the offered certificate: worth asking again.
    listed : bool
        The list was taken: it is signed by the fleet's authority, and newer than the one kept.
    not_listed : str
        Why not, where there was one.
    revoked : bool
        The certificate in force is in the newest list.
    """

    key: bytes = b""
    certificate: bytes = b""
    reason: str = ""
    failed: bool = False
    listed: bool = False
    not_listed: str = ""
    revoked: bool = False


def agree_apart(question: Question) -> Answer:
    """Agree on a key in a process of its own; also where there was none, there is an answer."""
    import subprocess  # noqa: PLC0415 - a device without a certificate does without

    try:
        done = subprocess.run(
            # -P: a module of this name in the working directory is not what is meant.
            [sys.executable, "-P", "-m", "edge_runtime.device.agreement"],
            input=msgspec.json.encode(question),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return msgspec.json.decode(done.stdout, type=Answer)
    except subprocess.TimeoutExpired:
        reason = f"not within {_TIMEOUT_S:g} s"
    except OSError as error:
        reason = str(error.strerror)
    except msgspec.MsgspecError:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        reason = f"exit code {done.returncode}, {last[:200]}"
    return Answer(reason=reason, failed=True)


def _answer(question: Question) -> Answer:
    # Here, as the agent imports this module.
    from edge_runtime.process.agreement import Agreement  # noqa: PLC0415
    from edge_runtime.process.revocation import serial_of  # noqa: PLC0415

    answer = Answer()
    try:
        tls = TlsFiles(
            ca=Path(question.ca), certificate=Path(question.certificate), key=Path(question.key)
        )
        own = Agreement(tls=tls, fleet=question.fleet)
        if question.kept:
            # Not to be read: of another fleet, which the device belonged to before.
            with contextlib.suppress(AuthenticityError):
                own.heed(question.kept)
        if question.listed:
            answer = _list(own, question.listed)
        if question.in_force and own.is_revoked(serial_of(question.in_force)):
            answer = replace(answer, revoked=True)
        agreed = own.agree(
            question.offered,
            name=AGGREGATOR,
            device=question.device,
            now_unix_s=question.now_unix_s,
        )
    except EdgeRuntimeError as error:
        # The device's own files may be whole at the next attempt.
        failed = not isinstance(error, AuthenticityError)
        return replace(answer, reason=error.public, failed=failed)
    return replace(answer, key=agreed.key, certificate=own.certificate)


def _list(own: Agreement, listed: bytes) -> Answer:
    try:
        own.heed(listed)
    except AuthenticityError as error:
        return Answer(not_listed=error.public)
    return Answer(listed=True)


def main() -> int:
    """Answer one question."""
    with contextlib.suppress(OSError):
        # Where memory runs out it is this process that goes, and not the agent.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    sys.stdout.buffer.write(msgspec.json.encode(_answer(question)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
