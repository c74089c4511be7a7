"""The one command, ``calijoule``: composes the commands of every package.

Errors that we raise on purpose become one sentence on stderr and an exit code; anything else is a bug and
keeps its traceback.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import click
import typer

from calibration_data import CalijouleError, __version__
from cost_models.cli import app as cost_models_app
from cwmp.cli import app as cwmp_app
from cwmp.comparison.cli import app as comparison_app
from cwmp.diff_cli import app as diff_app
from profiler.cli import Settings
from profiler.cli import app as profiler_app
from profiler.sensors import POWERCAP_ROOT

INTERRUPTED = 130

app = typer.Typer(
    name="calijoule",
    help="Measure what elementary operations cost in joules, and spend an energy budget on the gradient"
    " coordinates that are worth it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for part in (profiler_app, cost_models_app, diff_app, cwmp_app, comparison_app):
    app.registered_commands.extend(part.registered_commands)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    powercap_root: Annotated[
        Path, typer.Option(help="Root of the RAPL tree; containers mount the host's elsewhere.")
    ] = POWERCAP_ROOT,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Options of every command."""
    context.obj = Settings(powercap_root=powercap_root)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CalijouleError as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        typer.echo(f"Error: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        typer.echo("Interrupted; everything finished so far is kept.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1


if __name__ == "__main__":
    sys.exit(main())
