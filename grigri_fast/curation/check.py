"""The command ``data check``: what a data set holds, and with ``deep`` what is wrong with it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from ..config import MAX_PIXELS
from ..data import dataset
from ..data.dataset import Dataset
from ..data.layouts import HowLabels
from ..runtime import cpu_share
from ..runtime.files import StrPath
from ..training.callbacks import Callback
from .options import require_libraries, require_used
from .summary import Summary, summarize

if TYPE_CHECKING:
    from .findings import Findings


@dataclass(frozen=True)
class Checked:
    """What a check has found.

    Attributes:
        data: the data set.
        summary: what it holds.
        findings: what the deep check has found; None without one.
    """

    data: Dataset
    summary: Summary
    findings: "Findings | None"


def check(
    data: StrPath,
    *,
    images: StrPath | None = None,
    deep: bool = False,
    run: StrPath | None = None,
    folds: int | None = None,
    epochs: int | None = None,
    size: int | None = None,
    split: StrPath | None = None,
    distance: int | None = None,
    out: StrPath | None = None,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_summary: Callable[[Dataset, Summary], None] = lambda data, summary: None,
    callback: Callback | None = None,
    **how_labels: Unpack[HowLabels],
) -> Checked:
    """Decode every image of a data set and return what it holds, and which files are no use.

    With ``deep`` also look for near-duplicates and, if there is a model to tell, for labels that
    are likely wrong; tables and a gallery of both are written.

    Args:
        data: a folder or a CSV file.
        images: folder that a CSV's image names are relative to.
        deep: whether to look for more than files that cannot be used.
        run: a run folder whose model judges the labels of its validation part.
        folds: train so many small models, which judge the labels of all images.
        epochs, size: of the models of ``folds``; 10, and 64 px by default.
        split: a split file; near-duplicates across it are marked. With ``run``, its own is used.
        distance: bits of 64 in which near-duplicates may differ; 10 by default.
        out: folder of the tables and the gallery; ``runs/check-<data>`` by default.
        max_pixels: larger images are refused unread.
        threads: CPU threads.
        on_progress: called with images decoded and images in all.
        on_summary: called with the data set and what it holds, before the deep check begins.
        callback: called as the deep check and the training of ``folds`` proceed.
        how_labels: how the labels are to be read, as in :class:`HowLabels`.

    Raises:
        UsageError: if an option would be ignored.
        GrigriError: if something does not fit, cannot be read or cannot be written.
        Interrupted: when a signal has stopped the deep check.
    """
    require_used(
        deep=deep, run=run, folds=folds, epochs=epochs, size=size, split=split,
        distance=distance, out=out,
    )  # fmt: skip
    source, images = os.fspath(data), None if images is None else os.fspath(images)
    num_threads = cpu_share.pick_threads(threads)
    labelled = dataset.load(source, images, **how_labels)
    if deep:
        require_libraries(label_errors=run is not None or folds is not None)
    summary = summarize(
        labelled, threads=num_threads, max_pixels=max_pixels, on_progress=on_progress
    )
    on_summary(labelled, summary)
    findings = None
    if deep:
        # Only a deep check needs PyTorch, which takes seconds to import.
        from ..runtime.compute import Compute
        from . import deep_check
        from .label_issues import Setting

        compute = Compute.resolve(threads=threads)
        findings = deep_check.check_deeply(
            Setting(
                labelled, source, images, compute, max_pixels, epochs or 10, size or 64, how_labels
            ),
            run=run,
            num_folds=folds,
            split=split,
            distance=distance,
            out=out,
            callback=callback or Callback(),
        )
    return Checked(labelled, summary, findings)
