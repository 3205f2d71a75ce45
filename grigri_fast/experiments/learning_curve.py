"""The command ``learning-curve``: how much more photographs would bring, and of which class.

The network stays as its weights are; a linear head is fitted to its features of growing parts of
the training images. So one pass over the images is enough for all sizes, and what the curve says is
what a linear probe gains; fine-tuning starts higher and gains about the same. Shapes: V views, N
images, D numbers per feature, C classes.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..config import resolve
from ..errors import GrigriError
from ..evaluation import curve
from ..evaluation.curve import Curve
from ..inference import features
from ..pipeline.check import without
from ..reporting import curve_page
from ..reporting.html import images
from ..runs import run_folder
from ..runtime import compute, files
from ..runtime.files import StrPath
from ..training import probe, run_data, setup
from ..training.run_data import RunData
from ..training.session import Session, open_session
from .callbacks import CurveCallback
from .curve_options import config_of

# The files that are written, beside curve.FILE.
TABLE, CLASSES = "learning-curve.csv", "learning-curve-classes.csv"
FIGURE, PAGE = "learning-curve.png", "learning-curve.html"

Features = NDArray[np.float16]


@dataclass(frozen=True)
class LearningCurve:
    """What :func:`learning_curve` returns.

    Attributes:
        curve: scores over the number of training images.
        network: which one, and at which size, in words.
        layout: the data set, in words.
        out: the folder of the files.
    """

    curve: Curve
    network: str
    layout: str
    out: Path


def learning_curve(
    data: StrPath,
    *,
    subsets: int = 3,
    out: StrPath | None = None,
    callback: CurveCallback | None = None,
    **options: Any,
) -> LearningCurve:
    """Measure how the scores grow with the number of training images, and write a page of it.

    Args:
        data: photographs and labels: a folder or a CSV; or a run folder of ``train``, whose data,
            split, network and starting weights are taken.
        subsets: how often each size but the largest is drawn.
        out: folder of the files; the run folder, or ``runs/learning-curve-<data>`` by default.
        callback: called with the progress.
        options: fields of :class:`TrainConfig` that say what data and network are, and what to
            compute on (see :func:`curve_options.config_of`).

    Raises:
        GrigriError: if an option is wrong or would be ignored, there are too few images, or the
            network has no pretrained weights or no linear head.
        TypeError: for an option that there is not.
    """
    callback = callback or CurveCallback()
    if subsets < 1:
        raise GrigriError(f"--subsets must be at least 1, not {subsets}")
    config = config_of(data, options)
    config = setup.with_network(config, compute.pick_device(config.device), callback.log)
    target = _target(data, out)
    with open_session(resolve(config), callback, None) as session:
        loaded = run_data.load(session)
        train, val = loaded.train_rows, loaded.val_rows
        curve.sizes_of(len(train))  # too few are an error before anything is computed
        features_VND, train, val = _features(session, loaded, callback)
    val_targets_NC, unknown_NC = loaded.labels(val)

    def fit_and_predict(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        used = train[rows]
        head = probe.fit_head(features_VND[:, used], *loaded.labels(used), seed=config.seed)
        found_NC = expit(head.logits(features_VND[:, val]).astype(np.float64))
        return found_NC if unknown_NC is None else np.where(unknown_NC, -np.inf, found_NC)

    measured = curve.measure(
        fit_and_predict,
        loaded.dataset.targets_NC[train],
        val_targets_NC,
        loaded.dataset.class_names,
        num_subsets=subsets,
        seed=config.seed,
        on_progress=callback.on_head,
    )
    asked = session.asked
    network = f"{asked.arch} at {asked.size} px, weights {asked.weights}"
    found = LearningCurve(measured, network, loaded.dataset.layout, target)
    write(found)
    return found


def _target(data: StrPath, out: StrPath | None) -> Path:
    """Return the folder of the files, which is made.

    Raises:
        GrigriError: if it cannot be.
    """
    is_run = (Path(data) / run_folder.CONFIG).is_file()
    default = Path(data) if is_run else Path("runs", f"learning-curve-{Path(data).resolve().stem}")
    target = default if out is None else Path(out)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise GrigriError(f"--out {target}: {e.strerror or e}") from e
    return target


def _features(
    session: Session, data: RunData, callback: CurveCallback
) -> tuple[Features, NDArray[np.intp], NDArray[np.intp]]:
    """Return the features of all images of the data set, and the rows of train and val with some.

    Rows that are in neither part have zeros.
    """
    model = setup.load_network(session, data.frequency_C)
    model = setup.placed(model, session.asked, session.compute)
    rows = np.concatenate([data.train_rows, data.val_rows])
    found = features.compute_features(
        model,
        data.dataset.paths,
        data.checked,
        rows,
        compute=session.compute,
        budget=session.budget,
        size_px=session.asked.test_size_in(0),
        views=("whole",),
        on_progress=callback.on_features,
    )
    num_views, _, num_features = found.features_VND.shape
    of_row_VND = np.zeros((num_views, len(data.dataset), num_features), np.float16)
    of_row_VND[:, without(rows, found.dropped)] = found.features_VND
    train, val = (without(part, found.dropped) for part in (data.train_rows, data.val_rows))
    return of_row_VND, train, data.unseen(val)


# -------------------------------------------------------------------------------- the files


def write(found: LearningCurve) -> None:
    """Write the curve as JSON, CSV, PNG and HTML."""
    measured, out = found.curve, found.out
    facts = {"network": found.network, "data": found.layout}
    files.write_json(out / curve.FILE, facts | dataclasses.asdict(measured))
    files.write_atomic(out / TABLE, files.to_csv(_sizes(measured)))
    files.write_atomic(out / CLASSES, files.to_csv(_classes(measured)))
    files.write_atomic(out / FIGURE, curve_page.png(measured))
    shown = [
        ("Network", found.network),
        ("Training", images(measured.num_train)),
        ("Validation", images(measured.num_val)),
    ]
    page = curve_page.to_html(measured, "Learning curve", found.layout, shown)
    files.write_atomic(out / PAGE, page)


def _sizes(measured: Curve) -> list[dict[str, Any]]:
    """Return a row per number of training images; the last one is extrapolated."""
    rows = [
        {"images": p.num_images, "subsets": p.num_subsets}
        | _columns("micro_f1", p.micro_f1)
        | _columns("mAP", p.mAP)
        for p in measured.points
    ]
    twice = {"images": measured.micro_f1.num_images, "subsets": 0}
    twice |= _columns("micro_f1", measured.micro_f1.score) | _columns("mAP", measured.mAP.score)
    return [*rows, twice]


def _classes(measured: Curve) -> list[dict[str, Any]]:
    """Return a row per class, with its average precision at each number of training images."""
    return [
        {"class": c.name, "train_images": c.num_train, "val_images": c.num_val, "f1": c.f1}
        | {
            f"ap({point.num_images})": ap.value
            for point, ap in zip(measured.points, c.average_precision, strict=True)
        }
        | _columns("gain_with_twice", c.twice.gain if c.twice else None)
        | {"wants_images": c.wants_images}
        for c in measured.per_class
    ]


def _columns(name: str, score: Any) -> dict[str, Any]:
    bounds = (name, f"{name}_low", f"{name}_high")
    values = (score.value, score.low, score.high) if score else ("", "", "")
    return dict(zip(bounds, values, strict=True))
