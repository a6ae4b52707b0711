"""Agreeing on a key with the aggregator, in a process that ends with it.

`cryptography` takes 12 MB, and the agent is to do without. The process is asked on its standard
input and answers on its standard output; it reads the device's own files itself.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import msgspec

from edge_runtime.errors import AuthenticityError, EdgeRuntimeError
from edge_runtime.process.tls import TlsFiles

__all__ = ["AGGREGATOR", "Answer", "Question", "agree_apart"]

#: the common name of its certificate, which is given to no device
AGGREGATOR = "aggregator"

#: a Pi Zero 2 imports cryptography in a second; whoever needs longer is stuck
_TIMEOUT_S = 60.0
#: for a hostile certificate; an ordinary one takes a tenth of both
_MEMORY_BYTES, _CPU_S = 1 << 30, 30


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be agreed on: `offered` is the certificate (DER) that is said to be the other's.

    `ca`, `certificate` and `key` are paths; `now_unix_s` is the earliest that it can be now,
    whatever the clock says.
    """

    ca: str
    certificate: str
    key: str
    fleet: str
    device: str
    offered: bytes
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
    """

    key: bytes = b""
    certificate: bytes = b""
    reason: str = ""
    failed: bool = False


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

    try:
        tls = TlsFiles(
            ca=Path(question.ca), certificate=Path(question.certificate), key=Path(question.key)
        )
        own = Agreement(tls=tls, fleet=question.fleet)
        agreed = own.agree(
            question.offered,
            name=AGGREGATOR,
            device=question.device,
            now_unix_s=question.now_unix_s,
        )
    except EdgeRuntimeError as error:
        # The device's own files may be whole at the next attempt.
        failed = not isinstance(error, AuthenticityError)
        return Answer(reason=error.public, failed=failed)
    return Answer(key=agreed.key, certificate=own.certificate)


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
