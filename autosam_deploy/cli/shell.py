"""What command lines share: one-line errors, exit codes, `--debug`, `--json`, `--option`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import click

from autosam_deploy.errors import AutosamError

_F = TypeVar("_F", bound=Callable[..., Any])


class AutosamGroup(click.Group):
    """A click group whose commands report `AutosamError` as one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, translating errors (see `report_errors`)."""
        return report_errors(ctx, lambda: super(AutosamGroup, self).invoke(ctx))


class AutosamCommand(click.Command):
    """A click command that reports `AutosamError` as one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, translating errors (see `report_errors`)."""
        return report_errors(ctx, lambda: super(AutosamCommand, self).invoke(ctx))


def report_errors(ctx: click.Context, run: Callable[[], Any]) -> Any:
    """Call `run`; an `AutosamError` becomes one line on stderr and its exit code.

    With `--debug` (read from the context's parameters) the error keeps its traceback. Warnings of
    the library go to stderr as one line each.
    """
    _show_warnings()
    try:
        return run()
    except AutosamError as error:
        if ctx.params.get("debug") or any(parent.params.get("debug") for parent in _parents(ctx)):
            raise
        click.echo(f"error: {error}", err=True)
        ctx.exit(error.exit_code)


def _show_warnings() -> None:
    logger = logging.getLogger("autosam_deploy")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)


def _parents(ctx: click.Context) -> list[click.Context]:
    found = []
    parent = ctx.parent
    while parent is not None:
        found.append(parent)
        parent = parent.parent
    return found


def common_options(function: _F) -> _F:
    """Add `--debug`, `--quiet` and `--json` (parameters `debug`, `quiet`, `as_json`)."""
    for option in (
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
    ):
        function = option(function)
    return function


def echo_json(value: Any) -> None:
    """Print `value` as indented JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def backend_option(more: str = "") -> Callable[[_F], _F]:
    """Return the option `--option NAME=VALUE`, texts under the name `backend_options`.

    Args:
        more: what the help says beside that.
    """
    return click.option(
        "--option",
        "backend_options",
        metavar="NAME=VALUE",
        multiple=True,
        is_eager=True,
        callback=lambda ctx, param, texts: _answered(ctx, texts),
        help="An option of the backend; `--option help` lists them. May be given several times."
        + more,
    )


def _answered(ctx: click.Context, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts, unless they ask for help, which needs no bundle and no volume."""
    if "help" not in texts:
        return texts
    from autosam_deploy.runtime.table import backend_options

    formatter = ctx.make_formatter()
    formatter.write_text("Options of backends, as --option NAME=VALUE")
    for backend, options in backend_options().items():
        rows = [
            (f"{one.name}=", f"{one.text}  [{one.expected}; default: {one.default}]")
            for one in options
        ]
        with formatter.section(backend):
            if rows:
                formatter.write_dl(rows)
            else:
                formatter.write_text("none")
    click.echo(formatter.getvalue(), nl=False)
    return ctx.exit(0)
