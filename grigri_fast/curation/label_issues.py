"""What is worth a second look in a data set: near-duplicates, and labels that are likely wrong.

Near-duplicates by a perceptual hash (ImageHash: the signs of 64 low frequencies) and, since a
small distance of 64 bits happens by chance among many images, by how small versions correlate.
Label errors by confident learning (cleanlab; Northcutt, Jiang and Chuang, "Confident Learning",
2021) from probabilities of a model that has not seen the image.

Shapes: N images, C classes, P pairs.
"""

import base64
import contextlib
import csv
import hashlib
import io
import json
import shutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import TrainConfig
from ..data import split
from ..data.dataset import Dataset
from ..errors import GrigriError, Interrupted
from ..inference.predictor import Classifier
from ..pipeline import thumbnails
from ..pipeline.check import without
from ..reporting import html, run_report
from ..reporting.charts import escape
from ..reporting.html import Section
from ..reporting.run_report import Photo
from ..runs import run_folder as run
from ..runtime import files
from ..runtime.compute import Compute
from ..training import trainer
from ..training.callbacks import Callback

NEAR, ISSUES, GALLERY, SETTINGS = (
    "near-duplicates.csv",
    "label-issues.csv",
    "gallery.html",
    "check.json",
)
DISTANCE = 10  # of 64 bits
# Measured on 12,000 photographs of MIRFLICKR: of the 47 pairs within 10 bits, the six that show
# the same had 0.90 to 1.00, the others 0.84 at most.
_LEAST_CORRELATION = 0.88
_READ_PX, _SMALL_PX = 64, 16
_BLOCK_CELLS = 4_000_000  # pairs of hashes that are compared at a time
_CHUNK = 65_536  # pairs whose small versions are compared at a time
_MAX_PAIRS = 1_000_000
_SHOWN_PAIRS = 100
_SHOWN_PER_KIND = 12  # issues of a class
_MAX_SHOWN_CLASSES = 40
# Few steps: the demo's rate, and no time to find out whether compiling pays.
_FOLD_RECIPE = {"arch": "grigri", "weights": "none", "lr": 0.05, "compile": "off"}


def require_libraries(label_errors: bool) -> None:
    """Raise GrigriError unless the libraries of the extra ``clean`` are here."""
    try:
        import imagehash  # noqa: F401

        if label_errors:
            import cleanlab  # noqa: F401
    except ImportError as e:
        raise GrigriError(
            f"--deep needs {e.name}: pip install 'grigri-fast[clean]' (ImageHash and cleanlab)"
        ) from e


# ------------------------------------------------------------------------------ near-duplicates


@dataclass(frozen=True)
class Pair:
    """Two images that look alike.

    Attributes:
        first, second: their rows, in order.
        distance: bits of 64 in which their hashes differ.
        correlation: of their brightness at 16 x 16 px.
    """

    first: int
    second: int
    distance: int
    correlation: float


@dataclass(frozen=True)
class Looks:
    """What images look like, in few bytes.

    Attributes:
        rows_N: whose.
        hashes_N: perceptual hashes, uint64.
        small_NP: brightness at 16 x 16 px, uint8.
    """

    rows_N: NDArray[np.intp]
    hashes_N: NDArray[np.uint64]
    small_NP: NDArray[np.uint8]


def looks_of(
    paths: Sequence[Path],
    *,
    threads: int,
    max_pixels: int,
    on_progress: Any = lambda done, total: None,
) -> Looks:
    """Return the looks of all files that can be used; the others are left out."""
    import imagehash

    rows_N = np.arange(len(paths))
    found, batches = thumbnails.load_thumbnails(
        paths, rows_N, size_px=_READ_PX, threads=threads, max_pixels=max_pixels
    )
    rows, hashes, small = [], [], []
    for batch in batches:
        for row, pixels in zip(batch.rows_N.tolist(), batch.images_NHWC.numpy(), strict=True):
            grey = Image.fromarray(pixels).convert("L")
            rows.append(row)
            bits = imagehash.phash(grey).hash.ravel()
            hashes.append(np.packbits(bits).view(np.uint64)[0])
            small.append(np.asarray(grey.resize((_SMALL_PX, _SMALL_PX), Image.Resampling.BOX)))
        on_progress(len(rows), len(paths) - len(found.bad))
    return Looks(
        np.array(rows, dtype=np.intp),
        np.array(hashes, dtype=np.uint64),
        np.array(small, dtype=np.uint8).reshape(len(rows), _SMALL_PX**2),
    )


def near_pairs(looks: Looks, distance: int = DISTANCE) -> list[Pair]:
    """Return the pairs that look alike, the most alike first.

    All pairs are compared, 4 million at a time: of 100,000 images, 5 thousand million.

    Raises:
        GrigriError: if they are more than a million.
    """
    pairs: list[Pair] = []
    n = len(looks.rows_N)
    block = max(1, _BLOCK_CELLS // max(1, n))
    for start in range(0, n, block):
        differ = np.bitwise_count(
            looks.hashes_N[start : start + block, None] ^ looks.hashes_N[None, start:]
        )
        a, b = np.nonzero(differ <= distance)
        later = b > a
        a, b = a[later], b[later]
        bits = differ[a, b]
        for at in range(0, len(a), _CHUNK):
            chunk = slice(at, at + _CHUNK)
            i, j = a[chunk] + start, b[chunk] + start
            alike = _correlation(looks.small_NP[i], looks.small_NP[j])
            for k in np.flatnonzero(alike >= _LEAST_CORRELATION).tolist():
                first, second = sorted((int(looks.rows_N[i[k]]), int(looks.rows_N[j[k]])))
                pairs.append(Pair(first, second, int(bits[chunk][k]), float(alike[k])))
        if len(pairs) > _MAX_PAIRS:
            raise GrigriError(
                f"more than {_MAX_PAIRS:,} near-duplicates: are most images the same?"
                f" A smaller --distance than {distance} finds fewer"
            )
    return sorted(pairs, key=lambda p: (p.distance, -p.correlation, p.first, p.second))


def _correlation(a_PN: NDArray[np.uint8], b_PN: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return Pearson's correlation of each row; 1 for equal rows, 0 for others without contrast."""
    a = a_PN - a_PN.mean(1, keepdims=True, dtype=np.float32)
    b = b_PN - b_PN.mean(1, keepdims=True, dtype=np.float32)
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    found = (a * b).sum(1) / np.maximum(norm, 1e-6)
    return np.where((a_PN == b_PN).all(1), np.float32(1), found)


# --------------------------------------------------------------------------------- label errors


@dataclass(frozen=True)
class Issue:
    """A label that is likely wrong.

    Attributes:
        row: of the image.
        c: number of the class.
        given: whether the image has the label.
        probability: what a model says that has not seen the image.
        score: cleanlab's quality of the label, from 0; the lower, the likelier it is wrong.
    """

    row: int
    c: int
    given: bool
    probability: float
    score: float


@dataclass(frozen=True)
class Predictions:
    """Probabilities from models that have not seen the images.

    Attributes:
        rows_N: which images.
        probabilities_NC: float64, classes in the data set's order.
        source: where they come from, in words.
    """

    rows_N: NDArray[np.intp]
    probabilities_NC: NDArray[np.float64]
    source: str


def label_issues(data: Dataset, predictions: Predictions) -> list[Issue]:
    """Return the labels that are likely wrong, the likeliest first.

    Which and how many: confident learning, class by class. Their order: by cleanlab's
    self-confidence with probabilities measured against what is usual for the class, or else every
    label of a rare class would come first. A class that all or none of the images have says
    nothing.
    """
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
    from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class

    targets_NC = data.targets_NC[predictions.rows_N].astype(bool)
    usable = [c for c in range(targets_NC.shape[1]) if 0 < targets_NC[:, c].sum() < len(targets_NC)]
    if not usable:
        return []
    # Not exactly 0 or 1, with which cleanlab's class thresholds can divide by nothing.
    probabilities_NC = np.clip(predictions.probabilities_NC[:, usable], 1e-6, 1 - 1e-6)
    labels = [np.flatnonzero(row).tolist() for row in targets_NC[:, usable]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few images
        flags_NC = find_multilabel_issues_per_class(labels, probabilities_NC, n_jobs=1)
        scores_NC = get_label_quality_scores_per_class(
            labels, probabilities_NC, adjust_pred_probs=True
        )
    issues = [
        Issue(
            int(predictions.rows_N[i]),
            usable[k],
            bool(targets_NC[i, usable[k]]),
            float(predictions.probabilities_NC[i, usable[k]]),
            float(scores_NC[i, k]),
        )
        for i, k in np.argwhere(flags_NC).tolist()
    ]
    return sorted(issues, key=lambda issue: (issue.score, issue.row, issue.c))


# --------------------------------------------- probabilities by models that have not seen them


@dataclass(frozen=True)
class How:
    """How models are trained and asked.

    Attributes:
        threads, max_pixels: as everywhere.
        epochs, size_px: of the models of the folds.
        images: folder of a CSV's images.
    """

    threads: int
    max_pixels: int
    epochs: int = 10
    size_px: int = 64
    images: str | None = None


def of_run(folder: Path, data: Dataset, how: How) -> tuple[Predictions, split.Split]:
    """Return a run's predictions on its validation part alone, and its split.

    The images that it was trained on are left out: what a model has learned by heart is no
    evidence.

    Raises:
        GrigriError: if it is no run, or of other images or classes.
    """
    path = run.checkpoint_path(folder, "last")
    part = run.open_part(folder, "val", data)
    rows_N, probabilities_NC = _ask(path, data, part.rows, how)
    source = f"{len(rows_N):,} images of the validation part of {folder}"
    return Predictions(rows_N, probabilities_NC, source), part.split


def of_folds(
    data: Dataset, source: str, num_folds: int, out: Path, how: How, callback: Callback
) -> Predictions:
    """Return predictions on all images, each by a model that was trained on the other folds.

    A fold that is finished leaves ``fold-<k>.csv`` in ``out`` and is not trained again; one that
    was stopped goes on.

    Args:
        data, source: the data set, and what DATA was on the command line.
        num_folds: how many models.
        out: a folder of this check.
        how: how they are trained.
        callback: told of the progress.

    Raises:
        GrigriError: as :func:`training.train`.
        Interrupted: when a signal has stopped it.
    """
    rows: list[NDArray[np.intp]] = []
    asked: list[NDArray[np.float64]] = []
    folds = split.folds(data, num_folds)
    for number, rows_N in enumerate(folds, start=1):
        name = f"fold-{number}"
        done = out / f"{name}.csv"
        if not done.exists():
            callback.log(f"fold {number} of {num_folds}")
            others = np.sort(np.concatenate([f for f in folds if f is not rows_N]))
            path = _train_fold(
                data,
                split.Split({"train": others, "val": rows_N}),
                source,
                out / name,
                how,
                callback,
            )
            _write_predictions(done, data, *_ask(path, data, rows_N, how))
            shutil.rmtree(out / name)
        of_fold = _read_predictions(done, data)
        rows.append(of_fold[0])
        asked.append(of_fold[1])
    words = f"{sum(map(len, rows)):,} images, each by one of {num_folds} models"
    return Predictions(np.concatenate(rows), np.concatenate(asked), words)


def _train_fold(
    data: Dataset,
    parts: split.Split,
    source: str,
    folder: Path,
    how: How,
    callback: Callback,
) -> Path:
    """Train on all but a fold, or go on, or find it done; return the checkpoint."""
    file = folder.with_name(f"{folder.name}-split.json")
    if not (folder / run.SUMMARY).is_file():
        if any((folder / name).is_file() for name in (run.RESUME, run.PREVIOUS)):
            trainer.train(trainer.resumed_config(folder, {"data": source}), callback, folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # a false start
            files.write_atomic(file, split.to_json(parts, data))
            config = TrainConfig(
                data=source,
                images=how.images,
                split=str(file),
                out=str(folder.parent),
                name=folder.name,
                size=how.size_px,
                epochs=how.epochs,
                threads=how.threads,
                max_pixels=how.max_pixels,
                max_bad=0.99,  # data check names the bad files anyway
                **_FOLD_RECIPE,
            )
            trainer.train(config, callback)
    file.unlink(missing_ok=True)
    return folder / run.LAST


def _ask(
    path: Path, data: Dataset, rows: NDArray[np.intp], how: How
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the rows that can be read, and a model's probabilities in the data set's order."""
    compute = Compute.resolve(threads=how.threads)
    with compute.open() as budget:
        classifier = Classifier.from_file(path, compute, how.max_pixels)
        unknown = sorted(set(data.class_names) - set(classifier.class_names))
        if unknown:
            raise GrigriError(f"{data.layout}: the model does not know the class {unknown[0]!r}")
        probabilities_NC, bad = classifier.probabilities(data.paths, rows, budget)
    columns = [classifier.class_names.index(name) for name in data.class_names]
    return without(rows, bad), probabilities_NC[:, columns]


def _write_predictions(
    path: Path, data: Dataset, rows_N: NDArray[np.intp], probabilities_NC: NDArray[np.float64]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *data.class_names])
    for row, values_C in zip(rows_N.tolist(), probabilities_NC.tolist(), strict=True):
        writer.writerow([data.names[row], *values_C])
    files.write_atomic(path, text.getvalue())


def _read_predictions(path: Path, data: Dataset) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    row_of = {name: row for row, name in enumerate(data.names)}
    try:
        header, *lines = csv.reader(io.StringIO(files.read_text(path)))
        if header[1:] != data.class_names:
            raise ValueError("its classes are others")
        rows = [row_of[name] for name, *_ in lines]
        values = [[float(value) for value in line[1:]] for line in lines]
        return np.array(rows, dtype=np.intp), np.array(values).reshape(len(rows), len(header) - 1)
    except (GrigriError, ValueError, KeyError, IndexError, csv.Error) as e:
        raise GrigriError(f"{path}: not of this check: {e}; remove it, or use --out") from e


# ------------------------------------------------------------------------------- the whole check


@dataclass(frozen=True)
class Cleaning:
    """What a deep check has found.

    Attributes:
        data: of what.
        pairs: near-duplicates.
        part_of: each row's part in the split; empty without one.
        issues: labels that are likely wrong; None where nobody was asked.
        source: who was asked, in words.
        out: the folder with the tables and the gallery.
    """

    data: Dataset
    pairs: list[Pair]
    part_of: dict[int, str]
    issues: list[Issue] | None
    source: str
    out: Path

    def across(self, pair: Pair) -> bool:
        """Return whether the two are in different parts of the split."""
        parts = {self.part_of.get(row) for row in (pair.first, pair.second)}
        return len(parts - {None}) == 2


def check(
    data: Dataset,
    source: str,
    out: Path,
    how: How,
    callback: Callback,
    *,
    run_folder: Path | None = None,
    num_folds: int | None = None,
    split_file: Path | None = None,
    distance: int = DISTANCE,
) -> Cleaning:
    """Look for near-duplicates and, if there is someone to ask, label errors; write all of it.

    Args:
        data, source: the data set, and what DATA was on the command line.
        out: the folder to write to.
        how: threads, and the models of the folds.
        callback: told of the progress.
        run_folder: ask this run, about its validation part.
        num_folds: ask so many models that are trained for it.
        split_file: the split that pairs may be across; the run's own with ``run_folder``.
        distance: bits in which near-duplicates may differ.

    Raises:
        GrigriError: if something does not fit together, or cannot be written.
        Interrupted: when a signal has stopped it.
    """
    parts = split.read(split_file, data) if split_file is not None else None
    settings = {"data": provenance_of(data), "max_pixels": how.max_pixels}
    if num_folds is not None:
        settings |= {"folds": num_folds, "epochs": how.epochs, "size": how.size_px}
    with opened(out, settings):
        predictions = None
        if run_folder is not None:
            predictions, parts = of_run(run_folder, data, how)
        looks = looks_of(
            data.paths,
            threads=how.threads,
            max_pixels=how.max_pixels,
            on_progress=callback.on_check,
        )
        pairs = near_pairs(looks, distance)
        if num_folds is not None:
            predictions = of_folds(data, source, num_folds, out, how, callback)
        part_of = {
            row: name
            for name, rows in (parts.parts if parts else {}).items()
            for row in rows.tolist()
        }
        issues = None if predictions is None else label_issues(data, predictions)
        asked = predictions.source if predictions else ""
        found = Cleaning(data, pairs, part_of, issues, asked, out)
        write(found, how)
    return found


def provenance_of(data: Dataset) -> str:
    """Return a digest of names and labels: the same data set, the same digest."""
    digest = hashlib.sha256(json.dumps([data.names, data.class_names]).encode())
    digest.update(np.ascontiguousarray(data.targets_NC))
    return digest.hexdigest()


@contextlib.contextmanager
def opened(out: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Make the folder of a check, or go on in it; only one process works there.

    Raises:
        GrigriError: if it holds something else, or a check with other settings.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / SETTINGS).is_file():
        raise GrigriError(f"--out {out}: holds something else; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise GrigriError(f"--out {out}: {e.strerror or e}") from e
    with run.locked(out):
        # Only folds are kept from one call to the next.
        before = files.read_json(out / SETTINGS) if any(out.glob("fold-*")) else {}
        for name, value in settings.items():
            if name in before and before[name] != value:
                raise GrigriError(
                    f"--out {out}: its folds were made with {name} {before[name]}, not {value};"
                    f" choose another folder"
                )
        files.write_json(out / SETTINGS, before | settings)
        try:
            yield
        except (KeyboardInterrupt, Interrupted) as e:
            signum = e.signum if isinstance(e, Interrupted) else signal.SIGINT
            raise Interrupted(signum, "the same command goes on") from e


def write(found: Cleaning, how: How) -> None:
    """Write the two tables and the gallery.

    Raises:
        GrigriError: if they cannot be written.
    """
    files.write_atomic(found.out / NEAR, near_csv(found))
    if found.issues is not None:
        files.write_atomic(found.out / ISSUES, issues_csv(found))
    pairs, issues = _shown_pairs(found), _shown_issues(found)
    rows = {row for p in pairs for row in (p.first, p.second)}
    rows |= {issue.row for kinds in issues.values() for kind in kinds for issue in kind}
    photos = run_report.photographs(
        found.data.paths, sorted(rows), threads=how.threads, max_pixels=how.max_pixels
    )
    files.write_atomic(found.out / GALLERY, to_html(found, pairs, issues, photos))


def near_csv(found: Cleaning) -> str:
    """Return the table of near-duplicates: those across the split first, then by distance."""
    head = "first,second,distance,correlation,part_of_first,part_of_second,across_the_split"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head.split(","), "labels_of_first", "labels_of_second", "same_labels"])
    for p in _across_first(found):
        labels = [_labels(found.data, row) for row in (p.first, p.second)]
        writer.writerow(
            [
                *(found.data.names[row] for row in (p.first, p.second)),
                p.distance,
                f"{p.correlation:.4f}",
                *(found.part_of.get(row, "") for row in (p.first, p.second)),
                ("yes" if found.across(p) else "no") if found.part_of else "",
                *("|".join(names) for names in labels),
                "yes" if labels[0] == labels[1] else "no",
            ]
        )
    return text.getvalue()


def issues_csv(found: Cleaning) -> str:
    """Return the table of labels that are likely wrong, the likeliest first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "given", "probability", "score"])
    for i in found.issues or ():
        name, label = found.data.names[i.row], found.data.class_names[i.c]
        writer.writerow([name, label, int(i.given), f"{i.probability:.6f}", f"{i.score:.6f}"])
    return text.getvalue()


def _across_first(found: Cleaning) -> list[Pair]:
    return sorted(found.pairs, key=lambda p: not found.across(p))


def _labels(data: Dataset, row: int) -> list[str]:
    return [data.class_names[c] for c in np.flatnonzero(data.targets_NC[row])]


# ------------------------------------------------------------------------------------ the gallery


def _shown_pairs(found: Cleaning) -> list[Pair]:
    return _across_first(found)[:_SHOWN_PAIRS]


def _shown_issues(found: Cleaning) -> dict[int, tuple[list[Issue], list[Issue]]]:
    """Return, by class, the likeliest errors among labels that are given and that are not."""
    issues = found.issues or []
    counts = np.bincount([i.c for i in issues], minlength=len(found.data.class_names))
    shown = sorted(np.argsort(-counts, kind="stable")[:_MAX_SHOWN_CLASSES].tolist())
    of_class = {c: [i for i in issues if i.c == c] for c in shown if counts[c]}
    return {
        c: (
            [i for i in those if not i.given][:_SHOWN_PER_KIND],
            [i for i in those if i.given][:_SHOWN_PER_KIND],
        )
        for c, those in of_class.items()
    }


def to_html(
    found: Cleaning,
    pairs: Sequence[Pair],
    issues: dict[int, tuple[list[Issue], list[Issue]]],
    photos: dict[int, Photo],
) -> str:
    """Return the gallery as a page that needs nothing but itself."""
    num_across = sum(map(found.across, found.pairs))
    facts = [
        ("Images", f"{len(found.data):,}"),
        ("Near-duplicates", f"{len(found.pairs):,}"),
        ("Across the split", f"{num_across:,}" if found.part_of else "no split given"),
        ("Labels likely wrong", "-" if found.issues is None else f"{len(found.issues):,}"),
    ]
    sections = [_pairs_section(found, pairs, photos)]
    if found.issues is not None:
        sections.append(_issues_section(found, issues, photos))
    foot = f"Written by grigri-fast data check --deep. {NEAR} and {ISSUES} hold all of it."
    return html.frame("A second look", found.data.layout, html.facts(facts), sections, foot)


def _pairs_section(found: Cleaning, pairs: Sequence[Pair], photos: dict[int, Photo]) -> Section:
    cards = []
    for p in pairs:
        what = f"{p.distance} of 64 bits differ, correlation {p.correlation:.3f}"
        if found.across(p):
            what += f"; {found.part_of[p.first]} and {found.part_of[p.second]}"
        style = "false" if found.across(p) else "right"
        shots = "".join(_shot(found, row, photos, style) for row in (p.first, p.second))
        cards.append(
            f'<article class="card"><p class="kind {style}-kind">{escape(what)}</p>'
            f'<div class="shots">{shots}</div></article>'
        )
    intro = (
        "Pairs that look alike. Across the split they flatter the score; with different labels one"
        " of them is wrong."
        if pairs
        else "No two images look alike."
    )
    if len(pairs) < len(found.pairs):
        intro += f" The first {len(pairs):,} of {len(found.pairs):,}."
    return Section("near", "Near-duplicates", html.grid(cards, least_px=370), intro)


def _issues_section(
    found: Cleaning,
    issues: dict[int, tuple[list[Issue], list[Issue]]],
    photos: dict[int, Photo],
) -> Section:
    names = found.data.class_names
    links = "".join(f'<li><a href="#class-{c}">{escape(names[c])}</a></li>' for c in issues)
    cards = []
    for c, kinds in issues.items():
        count = sum(i.c == c for i in found.issues or ())
        parts = []
        for those, words, style in zip(
            kinds,
            ("Not given, but probable", "Given, but improbable"),
            ("missed", "false"),
            strict=True,
        ):
            shots = "".join(_shot(found, i.row, photos, style, i) for i in those)
            if those:
                parts.append(
                    f'<div><p class="kind {style}-kind">{words} <small>the likeliest errors first'
                    f'</small></p><div class="shots">{shots}</div></div>'
                )
        cards.append(
            f'<article class="card" id="class-{c}"><h3>{escape(names[c])} <small>{count:,} likely'
            f" errors</small></h3>{''.join(parts)}</article>"
        )
    intro = (
        f"By {found.source}. A model errs, too: these are the labels to look at first, not errors"
        " that are certain."
    )
    body = f'<ul class="jump">{links}</ul>{html.grid(cards, least_px=1200)}'
    return Section("labels", "Labels", body, intro)


def _shot(
    found: Cleaning, row: int, photos: dict[int, Photo], style: str, issue: Issue | None = None
) -> str:
    """Return a photograph with its name and labels, and the probability that is in question."""
    path, data = found.data.paths[row], found.data
    photo = photos.get(row, Photo(missing="not read"))
    labels = _labels(data, row)
    if photo.missing:
        picture = f'<span class="gone">{escape(photo.missing)}</span>'
    else:
        alt = f"{path.name}; labels: {', '.join(labels) or 'none'}"
        content = base64.b64encode(photo.jpeg).decode()
        picture = (
            f'<img alt="{escape(alt)}" width="{photo.width_px}" height="{photo.height_px}"'
            f' src="data:image/jpeg;base64,{content}">'
        )
    said = f'<span class="said">{issue.probability:.3f}</span>' if issue else ""
    tags = "".join(f"<li>{escape(name)}</li>" for name in labels) or "<li>no label</li>"
    return (
        f'<figure class="shot {style}-kind"><div class="photo">{picture}</div><figcaption>{said}'
        f'<span class="file" title="{escape(path)}">{escape(path.name)}</span>'
        f'<ul class="tags">{tags}</ul></figcaption></figure>'
    )
