"""The command ``suggest``: of photographs without labels, those that would teach a model most.

Shapes: N photographs, C classes.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import MAX_PIXELS
from ..data import split
from ..data.images import find_images
from ..errors import GrigriError
from ..inference.predictor import Classifier
from ..pipeline import check
from ..runs import manifest, run_folder
from ..runs.run_folder import CheckpointName
from ..runtime import files
from ..runtime.compute import AmpName, Compute, DeviceName, require_one_of
from ..runtime.files import StrPath
from . import selection, suggestions, suggestions_page
from .suggestions import PAGE, TABLE, Suggested, Suggestion


def suggest(
    run: StrPath,
    images: StrPath | Sequence[StrPath],
    *,
    number: int = 100,
    out: StrPath | None = None,
    checkpoint: CheckpointName = "last",
    max_pixels: int = MAX_PIXELS,
    device: DeviceName = "auto",
    amp: AmpName = "auto",
    memory_limit: str | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Suggested:
    """Return the photographs that would teach a model most, and write a table and a page of them.

    Args:
        run: a run folder of ``train``.
        images: the photographs: files, folders (with all below them) and globs.
        number: how many to suggest.
        out: folder of the table and the page; ``runs/suggest-<images>`` by default.
        checkpoint: of the run: ``last`` or ``best``.
        max_pixels: larger images are left out.
        device, amp, memory_limit, threads: as in :meth:`Compute.resolve`.
        on_progress: called with images done and images in all.

    Raises:
        GrigriError: if there is no such run, no photograph that could be suggested, or the folder
            holds something else.
    """
    if number < 1:
        raise GrigriError(f"--number must be at least 1, not {number}")
    require_one_of("--checkpoint", checkpoint, CheckpointName)
    folder = Path(run)
    model_file = run_folder.checkpoint_path(folder, checkpoint)
    several = [images] if isinstance(images, str | os.PathLike) else list(images)
    paths = find_images([str(one) for one in several]).images
    target = (
        Path("runs", f"suggest-{Path(several[0]).resolve().stem}") if out is None else Path(out)
    )
    _prepare(target)
    compute = Compute.resolve(device, amp, threads, memory_limit)
    known = _known(folder, paths, compute.threads, max_pixels)
    rows = np.array([row for row in range(len(paths)) if row not in known], dtype=np.intp)
    with compute.open() as budget:
        classifier = Classifier.from_file(model_file, compute, max_pixels)
        probabilities_NC, features_ND, bad = classifier.probabilities_and_features(
            paths, rows, budget, on_progress
        )
    rows = check.without(rows, bad)
    if not len(rows):
        raise GrigriError(
            _nothing_left(several, known, {paths[row]: why for row, why in bad.items()})
        )
    num_labelled = len(split.names(folder / run_folder.SPLIT)["train"])
    found = selection.select(features_ND, probabilities_NC, number, num_labelled)
    suggested = Suggested(
        suggestions=[
            _suggestion(paths[rows[i]], gain, probabilities_NC[i], classifier)
            for i, gain in zip(found.rows, found.gains, strict=True)
        ],
        class_names=classifier.class_names,
        num_images=len(paths),
        known=[paths[row] for row in sorted(known)],
        alike={paths[rows[i]]: paths[rows[j]] for i, j in sorted(found.alike.items())},
        bad={paths[row]: why for row, why in bad.items()},
        out=target,
    )
    files.write_atomic(target / TABLE, suggestions.to_csv(suggested))
    page = suggestions_page.write(suggested, folder, threads=compute.threads, max_pixels=max_pixels)
    files.write_atomic(target / PAGE, page)
    return suggested


def _suggestion(
    path: Path, score: float, probabilities_C: NDArray[np.float64], classifier: Classifier
) -> Suggestion:
    names = classifier.class_names
    given_C = probabilities_C >= classifier.info.thresholds_C
    return Suggestion(
        path=path,
        score=score,
        labels=[name for name, yes in zip(names, given_C, strict=True) if yes],
        probabilities=dict(zip(names, probabilities_C.tolist(), strict=True)),
    )


def _known(folder: Path, paths: Sequence[Path], threads: int, max_pixels: int) -> set[int]:
    """Return the rows of photographs whose content a run's data has, with labels."""
    have = manifest.checksums(folder / run_folder.DATA)
    checked = check.check_images(paths, threads=threads, max_pixels=max_pixels)
    return {row for row, crc32 in enumerate(checked.crc32_N.tolist()) if crc32 in have}


def _nothing_left(images: Sequence[StrPath], known: set[int], bad: dict[Path, str]) -> str:
    where = ", ".join(map(str, images[:3]))
    if bad:
        path, reason = next(iter(bad.items()))
        others = f", and the run's data has the {len(known):,} others already" if known else ""
        return f"{where}: no image can be used{others}; the first is {path}: {reason}"
    return f"{where}: the run's data has all {len(known):,} images already, with labels"


def _prepare(out: Path) -> None:
    """Make the folder of the table and the page.

    Raises:
        GrigriError: if it cannot be made, or holds something else.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        others = {file.name for file in out.iterdir()} - {TABLE, PAGE}
    except OSError as e:
        raise GrigriError(f"--out {out}: {e.strerror or e}") from e
    if others:
        raise GrigriError(f"--out {out}: holds something else; choose another folder")
