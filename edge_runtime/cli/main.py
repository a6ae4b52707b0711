"""The verbs put together, and what becomes of their errors."""

from __future__ import annotations

import os
import sys

import click

from edge_runtime import __version__
from edge_runtime.cli.aggregator import aggregator
from edge_runtime.cli.bundle import bundle
from edge_runtime.cli.demo import demo
from edge_runtime.cli.device import device
from edge_runtime.cli.diag import diag
from edge_runtime.cli.doctor import doctor
from edge_runtime.cli.evaluate import evaluate
from edge_runtime.cli.fit import fit
from edge_runtime.cli.fleet import fleet
from edge_runtime.cli.import_ import import_
from edge_runtime.cli.impute import impute
from edge_runtime.cli.release import release
from edge_runtime.cli.sample import sample
from edge_runtime.cli.schema import schema
from edge_runtime.errors import EdgeRuntimeError, MissingExtraError

__all__ = ["edge_runtime", "run"]

#: a process ended by Ctrl-C, by the shell's convention
_INTERRUPTED = 130


class _Verbs(click.Group):
    """The group; a reader that has seen enough (``| head``) is no error."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Python would complain once more when it flushes at exit: let it flush into nothing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  edge-runtime fit rows.csv --out rows.bundle",
)
@click.version_option(__version__, prog_name="edge-runtime")
def edge_runtime() -> None:
    """Turn a fleet of small devices into one private source of synthetic data.

    On one machine: schema infer, fit, sample, impute, evaluate. With a fleet: fleet init,
    fleet token, device enrol, device run, aggregator run, aggregator status, release. To see all
    of it at work: demo.
    """


for _verb in (
    demo, fit, sample, impute, evaluate, schema, bundle, import_, device, aggregator, fleet,
    release, doctor, diag,
):  # fmt: skip
    edge_runtime.add_command(_verb)


def run(arguments: list[str]) -> int:
    """Run one command; errors that the package raises on purpose become one line and a code.

    Parameters
    ----------
    arguments : list of str
        Without the program's name.

    Returns
    -------
    int
        The exit code.
    """
    try:
        code = edge_runtime.main(arguments, prog_name="edge-runtime", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EdgeRuntimeError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("edge_runtime"):
            raise
        # The base install, as on a device: doctor, diag and device need no more than that.
        missing = MissingExtraError(error.name, "aggregator")
        click.echo(f"error: {missing}", err=True)
        return missing.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        return _INTERRUPTED
    return code if isinstance(code, int) else 0
