"""What a device trusts, and the process of its own that metadata is verified in."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from edge_runtime import errors
from edge_runtime.errors import UpdateError
from edge_runtime.updates.envelope import Envelope, Target

__all__ = ["Question", "Trusted", "Verdict", "verify_apart"]

#: A Pi Zero 2 imports python-tuf in 2 s; whoever needs longer is stuck.
_TIMEOUT_S = 60.0


class Trusted(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata that was verified.

    Parameters
    ----------
    envelope : Envelope
        Its files.
    root, version : int
        Versions of the root and of the timestamp.
    expires_unix_s : float
        When the first of its four files expires.
    targets : dict of str to Target
        What is signed: ``schema``, ``plan``, and ``bundle/<digest>``.
    """

    envelope: Envelope
    root: int
    version: int
    expires_unix_s: float
    targets: dict[str, Target]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be verified: `offered`, by the `root` in force and after what was `trusted`.

    `now_unix_s` is the earliest that it can be now, whatever the clock says.
    """

    root: str
    trusted: Envelope | None
    offered: Envelope
    now_unix_s: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Parameters
    ----------
    root : str
        The newest root that is signed by the one before, also where the rest was refused: keys
        that it no longer names are worth nothing from now on.
    trusted : Trusted or None
        None: refused, see `error` and `reason`.
    error, reason : str
        Name of a type in `edge_runtime.errors`, and its text.
    failed : bool
        Nothing was found out about the metadata: worth asking again.
    """

    root: str
    trusted: Trusted | None = None
    error: str = ""
    reason: str = ""
    failed: bool = False

    def raise_refusal(self) -> None:
        """Raise what was refused, if it was.

        Raises
        ------
        UpdateError, SizeError
        """
        if self.trusted is None:
            kind = getattr(errors, self.error, UpdateError)
            raise kind(self.reason)


def verify_apart(question: Question, directory: Path) -> Verdict:
    """Verify metadata in a process that ends with it.

    Parameters
    ----------
    question : Question
    directory : Path
        Made anew, and gone afterwards.

    Returns
    -------
    Verdict
        Also where there was none: the process was killed, or python-tuf is not installed.
    """
    # Loaded here: most devices run without signatures, and hold half a MB less.
    import shutil  # noqa: PLC0415
    import subprocess  # noqa: PLC0415

    shutil.rmtree(directory, ignore_errors=True)
    try:
        directory.mkdir(mode=0o700)
        done = subprocess.run(  # noqa: S603 - this very program
            # -P: a module of this name in the working directory is not what is meant.
            [sys.executable, "-P", "-m", "edge_runtime.updates.verify", str(directory)],
            input=msgspec.json.encode(question),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return msgspec.json.decode(done.stdout, type=Verdict)
    except subprocess.TimeoutExpired:
        reason = f"metadata was not verified within {_TIMEOUT_S:g} s"
    except OSError as error:
        reason = f"metadata cannot be verified: {error.strerror}"
    except msgspec.MsgspecError:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        reason = f"metadata cannot be verified: exit code {done.returncode}, {last[:200]}"
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Verdict(root=question.root, error="UpdateError", reason=reason, failed=True)
