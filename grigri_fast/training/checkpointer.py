"""What a run writes into its folder while it goes on, so that nothing is lost when it stops."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from ..config import TrainConfig
from ..data import split
from ..errors import DivergedError, GrigriError, Interrupted
from ..models import networks
from ..models.normalize import preprocessing_of
from ..runs import checkpoint, manifest, run_folder, training_state
from ..runs.checkpoint import ModelInfo
from ..runs.trained_on import TrainedOn
from ..runs.training_state import Progress
from ..runtime import environment, files, imports
from ..runtime.option import write_toml
from ..runtime.units import parse_interval
from .autobatch import Fitted
from .run_data import RunData
from .session import Session
from .setup import Prepared

_CURVES_EVERY_S = 10.0  # assumed; to draw them takes as long as a short epoch


@contextlib.contextmanager
def open_folder(
    session: Session, config: TrainConfig, data: RunData, fitted: Fitted | None
) -> Iterator[Path]:
    """Make the run folder, or take that of the run that goes on; yield it, locked.

    It says what the run is made of: config, split, data and environment.
    """
    world, compute, resumed, dataset = session.world, session.compute, session.resumed, data.dataset
    record = environment.describe(compute.device, compute.amp)
    if fitted is not None:
        record["memory"] = fitted.to_json(session.budget)
    if world.is_shared:
        record["processes"] = world.size
    if resumed is None:
        folder = world.from_first(lambda: run_folder.create_folder(config.out, config.name))
    else:
        folder = resumed.folder
        record = run_folder.resumed_environment(folder, record)
    with contextlib.ExitStack() as stack:
        if world.is_first and resumed is None:
            stack.enter_context(run_folder.locked(folder))
            before = _seen_before(config.weights)
            manifest_text = manifest.to_json(dataset, data.checked.crc32_N, before)
            files.write_atomic(folder / run_folder.SPLIT, split.to_json(data.split, dataset))
            files.write_atomic(folder / run_folder.DATA, manifest_text)
        if world.is_first:
            files.write_atomic(folder / run_folder.CONFIG, write_toml(config))
            files.write_json(folder / run_folder.ENVIRONMENT, record)
            data.quarantine.write(folder)
        session.callback.log(f"run folder {folder}")
        if data.quarantine.bad:
            session.callback.log(data.quarantine.in_words(folder))
        if resumed is not None:
            steps_per_epoch = data.steps_per_epoch(config.batch_size)
            session.callback.log(resumed.describe(config, steps_per_epoch))
        yield folder


def _seen_before(weights: str | Path) -> frozenset[int]:
    """Return the checksums of what weights were trained on, if they are those of a run."""
    folder = Path(weights).parent
    if not (Path(weights).is_file() and (folder / run_folder.SPLIT).is_file()):
        return frozenset()
    trained_on = TrainedOn.read(folder)
    return trained_on.checksums if trained_on else frozenset()


class Checkpointer:
    """Saves a run's state and the files of its epochs.

    The state (``resume.safetensors``) comes first: from it the other files of an epoch could be
    made again, and they are (:meth:`save_epoch`) where a run was killed between the two. The curves
    are drawn after the first and the last epoch, between these now and then, and at a stop.

    Args:
        folder: the run folder.
        config: of the run.
        prepared: the network and what trains it.
        progress: how far the run is; ``train_s`` is kept up to date here.
        class_names: of the data.
        writes: whether this process writes; one of several does.

    Attributes:
        folder: as given.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        prepared: Prepared,
        progress: Progress,
        class_names: list[str],
        writes: bool = True,
    ) -> None:
        self.folder, self._config, self._class_names = folder, config, class_names
        self._prepared, self._progress, self._writes = prepared, progress, writes
        self._every_steps, self._every_s = parse_interval(config.checkpoint_every)
        self._steps = 0
        self._stored_s = time.perf_counter()
        self._num_drawn, self._drawn_s = len(progress.history), float("-inf")

    @property
    def advice(self) -> str:
        """How to go on after a stop."""
        return f"go on with: grigri-fast train --resume {files.shown(self.folder)}"

    def is_due(self) -> bool:
        """Count a step that is done; return whether to save the state after it."""
        self._steps += 1
        if self._every_steps is not None:
            return self._steps >= self._every_steps
        return time.perf_counter() - self._stored_s >= self._every_s

    def save_state(self) -> None:
        """Write the state; the one before is kept until the next time."""
        now_s = time.perf_counter()
        self._progress.train_s += now_s - self._stored_s
        self._steps, self._stored_s = 0, now_s
        if not self._writes:
            return
        training_state.save(
            self.folder / run_folder.RESUME,
            self.folder / run_folder.PREVIOUS,
            self._prepared.model,
            self._prepared.optimizer,
            self._prepared.scaler,
            self._progress,
            self._prepared.average,
        )

    def save_epoch(self) -> None:
        """Write what the last finished epoch leaves, unless it is there already."""
        history = self._progress.history
        if (
            not self._writes
            or not history
            or _text(self.folder / run_folder.RESULTS) == files.to_csv(history)
        ):
            return
        row = history[-1]
        if not self._progress.batches:  # the weights are those of the epoch's end
            pixels = preprocessing_of(self._prepared.evaluated)
            info = ModelInfo(
                arch=self._config.arch,
                size_px=self._config.test_size_in(row["epoch"]),
                built_px=self._config.size,
                class_names=self._class_names,
                mean=pixels.mean,
                std=pixels.std,
                flip_test=self._config.flip_test,
                epoch=row["epoch"],
                scores={k.removeprefix("val_"): v for k, v in row.items() if "val_" in k},
            )
            model = networks.folded(self._prepared.evaluated)
            if run_folder.best_row(history) is row:
                checkpoint.save(self.folder / run_folder.BEST, model, info)
            checkpoint.save(self.folder / run_folder.LAST, model, info)
        is_long_ago = time.perf_counter() - self._drawn_s >= _CURVES_EVERY_S
        if is_long_ago or row["epoch"] == self._config.epochs:
            self._draw_curves()
        files.write_atomic(self.folder / run_folder.RESULTS, files.to_csv(history))

    def _draw_curves(self) -> None:
        """Draw the epochs until now."""
        history = self._progress.history
        with imports.heavy():  # matplotlib, which a resumed run needs after its first epoch
            from ..reporting import plots

        title = f"{self.folder.name}: {self._config.arch} at {self._config.size} px"
        files.write_atomic(self.folder / run_folder.CURVES, plots.curves(history, title))
        self._num_drawn, self._drawn_s = len(history), time.perf_counter()

    @contextlib.contextmanager
    def advice_on_errors(self) -> Iterator[None]:
        """Say in an error that ends training how to go on once its cause is gone.

        If a signal ends it, the curves of all its epochs are drawn.
        """
        try:
            yield
        except Interrupted:
            if self._writes and self._num_drawn < len(self._progress.history):
                self._draw_curves()
            raise
        except DivergedError:
            raise  # it would come again
        except GrigriError as e:
            if not (self.folder / run_folder.RESUME).exists():
                raise
            raise GrigriError(f"{e}; {self.advice}") from e


def _text(path: Path) -> str:
    with contextlib.suppress(GrigriError):
        return files.read_text(path)
    return ""
