"""The program: its commands, and the one place where errors become a line and an exit code."""

import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from .. import __version__
from ..errors import GrigriError, Interrupted, UsageError
from ..runtime import distributed, imports, signals, streams, threads
from . import data, evaluate, labelling, performance, predict, serving, train
from .console import verbosity
from .options import Command

_LONG = ("train", "tune", "reproduce")  # they go on even if nobody reads what they print

app = typer.Typer(
    name="grigri-fast",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug shows its plain traceback
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Check a data set, split it, or get one.\n\nExample:  grigri-fast data check my-photos",
    no_args_is_help=True,
)
commands: dict[str, Callable[..., None]] = {
    "train": train.train,
    "tune": train.tune,
    "eval": evaluate.evaluate,
    "predict": predict.predict,
    "export": evaluate.export,
    "report": evaluate.report,
    "learning-curve": labelling.learning_curve,
    "suggest": labelling.suggest,
    "serve": serving.serve,
    "reproduce": train.reproduce,
    "bench": performance.bench,
    "profile": performance.profile,
    "info": performance.info,
}
for name, command in commands.items():
    app.command(name, cls=Command)(command)
for command in (data.check, data.split, data.demo, data.fetch):
    data_app.command(cls=Command)(command)
app.add_typer(data_app, name="data")


def main(args: list[str] | None = None) -> int:
    """Run the command line and return the exit code: the one place where errors become text.

    0 done; 1 something the user can fix, in one line on stderr; 2 wrong usage; 128 + its number
    for a signal (Ctrl-C 130, SIGTERM 143). Bugs keep their traceback.
    """
    verbosity.quiet = verbosity.verbose = False
    world = distributed.World.from_environment()
    try:
        code, words = _run(args)
    except Exception:
        distributed.let_first_process_report(world, 1)
        raise
    if code:
        distributed.let_first_process_report(world, code)
    if words and sys.stderr is not None and (world.is_first or code < 128):
        print(words if world.is_first else f"rank {world.rank}: {words}", file=sys.stderr)
    return code


def _run(args: list[str] | None) -> tuple[int, str]:
    """Run the command line and return the exit code, and what to say on stderr."""
    try:
        with signals.raise_interrupted():
            code = app(args, standalone_mode=False)
    except GrigriError as e:
        if verbosity.verbose:
            traceback.print_exception(e)
        if isinstance(e, UsageError):
            return 2, f"error: Invalid value: {e} (see --help)"
        return 1, f"error: {e}"
    except typer.TyperException as e:
        message = " ".join(e.format_message().replace("Value error, ", "").split())
        # Without a command the help has been shown, and there is no more to say.
        return e.exit_code, f"error: {message} (see --help)" if message else ""
    except Interrupted as e:
        return _interrupted(e.signum, e.advice)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(signal.SIGINT)
    except (BrokenPipeError, SystemExit):  # the latter is what rich makes of the former
        if not streams.has_lost_reader():
            raise
        return streams.EXIT_LOST_READER, ""
    if code == 130:  # what typer makes of Ctrl-C
        return _interrupted(signal.SIGINT)
    return code if isinstance(code, int) else 0, ""


def entry() -> None:
    """Be the process ``grigri-fast``: run :func:`main` and exit, even if a thread hangs."""
    imports.own_process()
    streams.guard()
    code = streams.finish(main())
    # With an error, PyTorch would wait for the other processes of a training.
    threads.leave(code, at_once=bool(code) and distributed.World.from_environment().is_shared)


def _interrupted(signum: int, advice: str = "") -> tuple[int, str]:
    verb = "interrupted" if signum == signal.SIGINT else f"ended by {signal.Signals(signum).name}"
    return 128 + signum, f"{verb}; {advice}" if advice else verb


def _show_version(asked: bool) -> None:
    if asked:
        print(f"grigri-fast {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors and results, and nothing else.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Also print when things happened, and where an error came from."
        ),
    ] = False,
) -> None:
    """Fine-tune a multi-label image classifier fast, and learn how good it honestly is.

    Example:  grigri-fast train my-photos
    """
    if quiet and verbose:
        raise typer.BadParameter("--quiet does not go with --verbose")
    verbosity.quiet, verbosity.verbose = quiet, verbose
    if context.invoked_subcommand in _LONG:
        streams.keep_going()
    world = distributed.World.from_environment()
    if world.is_shared and context.invoked_subcommand != "train":
        raise GrigriError(
            f"{context.invoked_subcommand} is for one process; of several, which torchrun starts,"
            f" only train makes use"
        )
