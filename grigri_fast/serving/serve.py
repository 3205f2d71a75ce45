"""The command ``serve``: a page on this machine to try a model, correct its data, and compare."""

import asyncio
import contextlib
import functools
import importlib.util
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvicorn

from ..config import MAX_PIXELS, TrainConfig
from ..curation.suggestions import Suggestion
from ..curation.suggestions import read as read_suggestions
from ..errors import GrigriError
from ..runs import checkpoint as checkpoints
from ..runs import run_folder
from ..runs.run_folder import CheckpointName
from ..runtime.compute import AmpName, Compute, DeviceName, require_one_of
from ..runtime.files import StrPath
from .background import Background
from .compared_runs import ComparedRuns
from .journal import Journal
from .review import Question, Review, of_duplicates, questions
from .scored_run import ScoredRun, config_of
from .site import make_site

_PORT, _NUM_PORTS = 8765, 20  # the first free one of so many


@dataclass(frozen=True)
class Served:
    """What was done while the site was there.

    Attributes:
        corrections: the table of corrected labels.
        num_decided: labels that have a decision in it, now.
        num_changed: those that differ from the data.
        num_added: photographs in it that the data do not have.
    """

    corrections: Path
    num_decided: int
    num_changed: int
    num_added: int


def serve(
    runs: StrPath | Sequence[StrPath],
    *,
    port: int | None = None,
    corrections: StrPath | None = None,
    suggestions: StrPath | None = None,
    checkpoint: CheckpointName = "last",
    max_pixels: int = MAX_PIXELS,
    device: DeviceName = "auto",
    amp: AmpName = "auto",
    memory_limit: str | None = None,
    threads: int | None = None,
    on_ready: Callable[[str, Review], None] = lambda address, review: None,
) -> Served:
    """Answer a browser at 127.0.0.1 until SIGINT or SIGTERM ends it.

    Args:
        runs: a run folder of ``train``, whose data must still be where they were; or several, of
            which the others are compared with the first.
        port: of 127.0.0.1; by default the first free one from 8765 on.
        corrections: the table that decisions are written to; by default the run's own, or
            ``<data>-corrections.csv`` beside the data.
        suggestions: the table that ``suggest`` writes, or its folder: photographs to label.
        checkpoint: of each run: ``last`` or ``best``.
        max_pixels: larger images are refused.
        device, amp, memory_limit, threads: as in :meth:`Compute.resolve`.
        on_ready: called with the address, which holds the token, when the site is there.

    Raises:
        GrigriError: if there is no such run, its data are gone, the port is taken, suggestions
            cannot be read, or corrections cannot be written.
    """
    require_one_of("--checkpoint", checkpoint, CheckpointName)
    folder, *others = _folders(runs, checkpoint)
    to_label = _to_label(suggestions, run_folder.checkpoint_path(folder, checkpoint))
    table = _corrections_of(config_of(folder), corrections)
    with _listening(port) as listener, contextlib.closing(Journal(table)) as journal:
        compute = Compute.resolve(device, amp, threads, memory_limit)
        scored = ScoredRun.of(folder, checkpoint, compute, max_pixels)
        thresholds_C = np.asarray(scored.classifier.info.thresholds_C, dtype=np.float64)
        asked = questions(scored.data, scored.predictions, thresholds_C)
        review = Review(scored.data, asked, journal, later(scored), to_label)
        compared = ComparedRuns(scored, others, checkpoint, journal)
        number = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        config = uvicorn.Config(
            make_site(scored, review, compared, port=number, token=token),
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
        )
        address = f"http://127.0.0.1:{number}/?token={token}"
        ready = functools.partial(on_ready, address, review)
        asyncio.run(_until_signal(_Server(config), listener, ready))
    return Served(journal.path, len(review.decided()), review.num_changed, review.num_added)


def later(scored: ScoredRun) -> dict[str, Background[list[Question]]]:
    """Return the questions that are looked for when somebody asks: they need every photograph."""
    if importlib.util.find_spec("imagehash") is None:
        return {}
    work = functools.partial(
        of_duplicates,
        scored.data,
        scored.predictions,
        scored.classifier.compute.threads,
        scored.max_pixels,
    )
    return {"duplicates": Background(work, "looking for near-duplicates")}


def _folders(runs: StrPath | Sequence[StrPath], checkpoint: CheckpointName) -> list[Path]:
    """Return the run folders.

    Raises:
        GrigriError: if one is none, has no model, or is there twice.
    """
    folders = [Path(one) for one in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    for folder in folders:
        model = run_folder.checkpoint_path(folder, checkpoint)
        if not model.is_file():
            raise GrigriError(f"{folder}: it has no {model.name} yet")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise GrigriError("a run is named twice; it would be compared with itself")
    return folders


def _to_label(suggestions: StrPath | None, model: Path) -> list[Suggestion]:
    """Return the photographs of ``suggestions``, before the model is loaded and scored."""
    info = checkpoints.info_of(model)
    if suggestions is None or info is None:  # of a damaged model, loading it says what is wrong
        return []
    return read_suggestions(suggestions, info.class_names)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :func:`_until_signal`: uvicorn would raise them again at the end."""
        yield


async def _until_signal(
    server: uvicorn.Server, listener: socket.socket, on_ready: Callable[[], None]
) -> None:
    def end() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, end)
    on_ready()  # the socket listens already: who is told now will be answered
    await server.serve(sockets=[listener])


def _corrections_of(config: TrainConfig, asked: StrPath | None) -> Path:
    if asked is not None:
        return Path(asked)
    if config.corrections is not None:
        return Path(config.corrections)
    data = Path(str(config.data))
    return data.with_name(f"{data.stem if data.is_file() else data.name}-corrections.csv")


@contextlib.contextmanager
def _listening(port: int | None) -> Iterator[socket.socket]:
    """Yield a socket at 127.0.0.1, so that nothing outside this machine reaches it."""
    ports = range(_PORT, _PORT + _NUM_PORTS) if port is None else [port]
    for number in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", number))
            listener.listen()
        except OSError as e:
            listener.close()
            if number == ports[-1]:
                which = f"--port {port}" if port is not None else f"ports {_PORT} to {number}"
                raise GrigriError(f"{which}: {e.strerror or e}; choose another --port") from e
            continue
        with listener:
            yield listener
        return
