"""The data of a run: the data set, its split, and which of its images can be used.

Shapes: N images of the data set, C classes.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import TrainConfig
from ..data import dataset, split
from ..data.dataset import Dataset
from ..data.split import Split
from ..errors import GrigriError
from ..pipeline import batching, check
from ..pipeline.check import ImageCheck
from ..pipeline.loader import ImageLoader
from . import collectives
from .quarantine import BEFORE, Quarantine
from .session import Session


@dataclass(frozen=True)
class RunData:
    """The data of a run; all images of train and val are checked.

    Attributes:
        dataset: the data set.
        split: its parts.
        checked: sizes and checksums of the files.
        quarantine: the images that cannot be used; more are added when files turn bad later.
    """

    dataset: Dataset
    split: Split
    checked: ImageCheck
    quarantine: Quarantine

    @cached_property
    def train_rows(self) -> NDArray[np.intp]:
        """The images to train on, without those that were bad from the start.

        What turns bad later keeps its place in the order of an epoch, so that all others do, too.
        """
        return self.quarantine.good_before(self.split.parts["train"])

    @property
    def val_rows(self) -> NDArray[np.intp]:
        """The images to validate on that can be used now."""
        return self.quarantine.good(self.split.parts["val"])

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.dataset.class_names)

    @property
    def frequency_C(self) -> NDArray[np.float64]:
        """The share of the training images that have each label, of those where it is known."""
        return frequencies(*self.labels(self.train_rows))

    def labels(
        self, rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Return targets of some images, and which of them are unknown; None: none is."""
        unknown_NC = self.dataset.unknown_NC
        return self.dataset.targets_NC[rows], None if unknown_NC is None else unknown_NC[rows]

    def unseen(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return rows without copies of training images, or all of them if all are such."""
        crc32_N = self.checked.crc32_N
        is_seen_N = np.isin(crc32_N[rows], crc32_N[self.train_rows])
        return rows if is_seen_N.all() else rows[~is_seen_N]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of training steps in an epoch."""
        return len(batching.cut_batches(self.train_rows, batch_size))

    def make_loader(self, session: Session, batch_size: int, **options: Any) -> ImageLoader:
        """Return a dataloader of the run's images; for the options see :class:`ImageLoader`."""
        return ImageLoader(
            self.dataset.paths,
            self.checked,
            size_px=largest_side(session.asked),
            batch_size=batch_size,
            device=session.compute.device,
            threads=session.compute.threads,
            rank=session.world.rank,
            num_ranks=session.world.size,
            on_slow=session.log_own,
            **options,
        )


def frequencies(
    targets_NC: NDArray[np.float32], unknown_NC: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Return the share of the images that have each label, of those where it is known (C,)."""
    if unknown_NC is None:
        return targets_NC.mean(0)
    return targets_NC.sum(0) / np.maximum((~unknown_NC).sum(0), 1)


def largest_side(config: TrainConfig) -> int:
    """Return the largest side of an image in a run, in pixels."""
    return max(config.size, config.test_size)


def load(session: Session) -> RunData:
    """Return the data of a run, after checking every image of train and val.

    Of several processes each checks its share. The data of a run that goes on must be what they
    were.

    Raises:
        GrigriError: if data, labels or split cannot be read, or too few images can be used.
    """
    config, world = session.asked, session.world
    resumed, progress = session.resumed, session.progress
    data = dataset.load(config.data, config.images, **config.how_labels)
    parts = _split(config, data) if resumed is None else resumed.read_split(data)
    collectives.require_same(world, config, data, parts, progress)
    session.callback.log(
        f"{data.layout}: {len(data):,} images, {len(data.class_names)} classes; "
        + ", ".join(f"{len(rows):,} {name}" for name, rows in parts.parts.items())
    )
    of_split = () if resumed else (*parts.notes, *split.absences_in_words(parts, data))
    for note in (*data.notes, *of_split):
        session.callback.log(f"  {note}")
    rows = np.concatenate([parts.parts["train"], parts.parts["val"]])
    quarantine = Quarantine(data, len(rows), config.max_bad, progress.bad)
    checked = check.check_images(
        data.paths,
        np.array_split(quarantine.good(rows), world.size)[world.rank],
        threads=session.compute.threads,
        max_pixels=config.max_pixels,
        max_bad=quarantine.num_allowed,
        on_progress=session.callback.on_check,
        on_slow=session.log_own,
    )
    if world.is_shared:
        checked = check.merge(world.all_gather_object(checked))
    if resumed is not None:
        resumed.require_same_content(data, checked.crc32_N)
    quarantine.add(checked.bad, BEFORE if resumed is None else progress.epoch)
    run_data = RunData(data, parts, checked, quarantine)
    if len(run_data.train_rows) < 2 or not len(run_data.val_rows):
        raise GrigriError("too few images can be used: at least 2 to train on and 1 to score")
    return run_data


def with_shares(config: TrainConfig, split_made: Split) -> TrainConfig:
    """Return the config with the shares of a split that was made here; a given one has none."""
    if split_made.asked is None:
        return config
    asked = {name: split_made.asked.get(name, 0.0) for name in ("val", "test")}
    return dataclasses.replace(config, **asked)


def _split(config: TrainConfig, data: Dataset) -> Split:
    """Return the split of a new run."""
    parts = split.choose(data, config.val, config.test, config.split, config.seed)
    return parts if config.limit is None else parts.limited(config.limit, config.seed)
