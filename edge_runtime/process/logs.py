"""Log lines on standard error: with a time of their own, or as the journal wants them."""

from __future__ import annotations

import logging
import os
import re
import sys

__all__ = ["complain", "log_to_stderr", "printable"]

#: all control characters but tab and line feed, and what turns the direction of writing
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: syslog's priorities, as sd-daemon(3) writes them in front of a line
_PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def printable(text: str) -> str:
    """Return a text with what could move a terminal's cursor, or hide a part of it, spelled out.

    States, reasons and names come from other machines; an operator's terminal obeys them.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _JournalFormatter(_Formatter):
    """Puts the priority in front of every line; the journal knows the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        known = max((level for level in _PRIORITY if level <= record.levelno), default=10)
        # The journal takes each line of a traceback for an entry of its own.
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{_PRIORITY[known]}>{line}" for line in lines)


def _in_journal() -> bool:
    """Whether standard error is the journal: systemd names its device and inode."""
    try:
        device, inode = os.environ["JOURNAL_STREAM"].split(":")
        status = os.fstat(sys.stderr.fileno())
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (KeyError, ValueError, OSError):
        return False


def log_to_stderr(level: str, *, subject: str = "name") -> None:
    """Write log records to standard error from now on.

    Parameters
    ----------
    level : str
        The lowest level shown: debug, info, warning or error.
    subject : str
        What of a record stands before its text: ``name`` (of the logger) or ``threadName``.
    """
    handler = logging.StreamHandler(sys.stderr)
    text = f"%({subject})s: %(message)s"
    handler.setFormatter(
        _JournalFormatter(text)
        if _in_journal()
        else _Formatter(f"%(asctime)s %(levelname)s {text}")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])


def complain(text: str) -> None:
    """Write why a program ends: one line on standard error, an error to the journal."""
    print(f"<{_PRIORITY[logging.ERROR]}>{text}" if _in_journal() else text, file=sys.stderr)
