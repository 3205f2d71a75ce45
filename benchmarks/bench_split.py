"""(l) Does a split keep its promise, and how long does it take?

    python benchmarks/bench_split.py [--matrices 200] [--repeats 3] [--out result.json]

Random label matrices: 20 to 100,000 images, 2 to 1,000 classes (both evenly in their logarithm), 1
to at most 1 to 10 labels an image, classes equally frequent or as uneven as 1/rank; in two parts
(80, 20 %) and every third in three (70, 20, 10 %). Of each: by how many images the part that is
furthest off misses its share; which classes with at least two images are missing in a part they
have images for; how far the classes' shares are off, on average; seconds. By three ways: what
``data split`` does; iterative stratification of pairs alone (order 2: Szymański and Kajdanowicz
2017); of single labels (order 1: Sechidis et al. 2011, the rarest label first).

Where ``data split`` leaves a class out, an integer program (SciPy's HiGHS) says how few could be
left out, whatever the shares.

Asked for: each share within a percent of the images or one image per class, whichever is
larger; every class with at least two images on both sides; 100,000 images x 100 classes in under
30 s.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

from grigri_fast.data import stratification
from grigri_fast.data.dataset import Dataset

TWO, THREE = (0.8, 0.2), (0.7, 0.2, 0.1)


@dataclass(frozen=True)
class Case:
    num_images: int
    num_classes: int
    most_labels: int
    uneven: float
    shares: tuple[float, ...]
    seed: int


def cases(num: int) -> list[Case]:
    """Return the sizes of random matrices."""
    found = []
    for seed in range(num):
        rng = np.random.default_rng((22, seed))
        num_images = round(np.exp(rng.uniform(np.log(20), np.log(100_000))))
        num_classes = round(np.exp(rng.uniform(np.log(2), np.log(1000))))
        most, uneven = int(rng.integers(1, 11)), float(rng.integers(2))
        shares = THREE if seed % 3 == 2 else TWO
        found.append(Case(num_images, num_classes, most, uneven, shares, seed))
    return found


def matrix(case: Case) -> np.ndarray:
    """Return random labels (N, C)."""
    rng = np.random.default_rng(case.seed)
    weight_C = np.arange(1, case.num_classes + 1, dtype=np.float64) ** -case.uneven
    most = min(case.most_labels, case.num_classes)
    targets_NC = np.zeros((case.num_images, case.num_classes), dtype=np.float32)
    for start in range(0, case.num_images, 5000):
        rows_NC = targets_NC[start : start + 5000]
        # The first of weighted random keys are a weighted draw (Efraimidis and Spirakis 2006).
        order_NC = np.argsort(rng.exponential(size=rows_NC.shape) / weight_C, axis=1)[:, :most]
        is_drawn = np.arange(most) < rng.integers(1, most + 1, len(rows_NC))[:, None]
        rows, places = np.nonzero(is_drawn)
        rows_NC[rows, order_NC[rows, places]] = 1
    return targets_NC


# ------------------------------------------------------------------------------ three ways


def as_data_split(targets_NC: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    names = [f"im{i}.jpg" for i in range(len(targets_NC))]
    classes = [str(c) for c in range(targets_NC.shape[1])]
    data = Dataset(names, [Path(name) for name in names], targets_NC, classes, "random labels")
    return stratification.stratify(data, shares, seed)


def by_pairs(targets_NC: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray | None:
    """Order 2 by scikit-multilearn, part by part; None where it takes long and is not tried."""
    has_NC = targets_NC > 0
    return stratification._by_pairs(has_NC, stratification._labels_of(has_NC), shares, seed)


def by_labels(targets_NC: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Order 1: the label with fewest images left goes where it is wanted most."""
    rng = np.random.default_rng(seed)
    labels_of = [np.flatnonzero(row).tolist() for row in targets_NC]
    images_of = [np.flatnonzero(column).tolist() for column in targets_NC.T]
    num_left = np.array([len(images) for images in images_of])
    wanted = [[len(images) * share for share in shares] for images in images_of]
    wanted_in_all = [len(labels_of) * share for share in shares]
    part_of = np.full(len(labels_of), -1)

    def put(image: int, parts: Sequence[int]) -> None:
        part = max(parts, key=lambda p: (wanted_in_all[p], rng.random()))
        part_of[image] = part
        wanted_in_all[part] -= 1
        for c in labels_of[image]:
            wanted[c][part] -= 1
            num_left[c] -= 1

    while num_left.any():
        c = int(np.where(num_left > 0, num_left, np.iinfo(num_left.dtype).max).argmin())
        for image in images_of[c]:
            if part_of[image] < 0:
                most = max(wanted[c])
                put(image, [p for p, w in enumerate(wanted[c]) if w == most])
    for image in np.flatnonzero(part_of < 0):
        put(image, range(len(shares)))
    return part_of


WAYS = {"data split": as_data_split, "order 2": by_pairs, "order 1": by_labels}


# ------------------------------------------------------------------------------- what counts


def measure(part_of: np.ndarray, targets_NC: np.ndarray, shares: Sequence[float]) -> dict:
    """Return how far a split is from what was promised."""
    num_images, num_classes = targets_NC.shape
    count_C = targets_NC.sum(0)
    count_PC = np.array([targets_NC[part_of == p].sum(0) for p in range(len(shares))])
    share_P = np.array(shares)
    far = float(np.abs(np.bincount(part_of, minlength=len(shares)) - share_P * num_images).max())
    enough_PC = count_C > np.maximum(np.arange(len(shares)), 1)[:, None]
    has = count_C > 0
    far_PC = np.abs(count_PC - share_P[:, None] * count_C)[:, has]
    return {
        "images_off": far,
        "share_off": far / num_images,
        "is_share_kept": far <= max(0.01 * num_images, num_classes),
        "is_share_within_1_percent": far <= max(0.01 * num_images, 1),
        "num_lacking": int(((count_PC == 0) & enough_PC).sum()),
        "num_classes_lacking": int(((count_PC == 0) & enough_PC).any(0).sum()),
        "alone_not_in_train": int(((count_C == 1) & (count_PC[0] == 0)).sum()),
        "class_images_off_mean": float(far_PC.mean()),
        "class_images_off_max": float(far_PC.max()),
    }


def fewest_lacking(targets_NC: np.ndarray, num_parts: int, seconds: float = 60) -> float:
    """Return a lower bound of what any split lacks, counted as ``num_lacking`` (HiGHS)."""
    count_C = targets_NC.sum(0)
    num_images = len(targets_NC)
    blocks, num_needs = [], 0
    for part in range(num_parts):
        needed = np.flatnonzero(count_C > max(part, 1))
        is_in = sp.lil_matrix((len(needed), num_images * num_parts))
        is_in[:, part * num_images : (part + 1) * num_images] = targets_NC[:, needed].T
        blocks.append(is_in)
        num_needs += len(needed)
    is_in = sp.hstack([sp.vstack(blocks), sp.eye(num_needs)])
    one_part = sp.hstack(
        [*[sp.eye(num_images)] * num_parts, sp.csr_matrix((num_images, num_needs))]
    )
    cost = np.r_[np.zeros(num_images * num_parts), np.ones(num_needs)]
    found = milp(
        cost,
        constraints=[LinearConstraint(is_in, lb=1), LinearConstraint(one_part, lb=1, ub=1)],
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        options={"time_limit": seconds},
    )
    return float(np.ceil(found.mip_dual_bound - 1e-6))


def run(case: Case, ways: Sequence[str]) -> dict:
    targets_NC = matrix(case)
    found: dict = {**asdict(case), "ways": {}}
    for name in ways:
        start_s = time.perf_counter()
        part_of = WAYS[name](targets_NC, case.shares, case.seed)
        seconds = time.perf_counter() - start_s
        if part_of is not None:
            about = measure(part_of, targets_NC, case.shares)
            found["ways"][name] = {"seconds": seconds, **about}
    ours = found["ways"].get("data split")
    if ours and ours["num_lacking"]:
        found["fewest_lacking"] = fewest_lacking(targets_NC, len(case.shares))
    return found


def table(results: list[dict]) -> str:
    """Return a line for each way."""
    lines = [
        f"{'':12}{'splits':>7}{'share kept':>12}{'within 1 %':>12}{'classes lacking':>17}"
        f"{'of matrices':>13}{'class off by':>14}{'median s':>10}{'max s':>8}"
    ]
    for name in WAYS:
        of_way = [r["ways"][name] for r in results if name in r["ways"]]
        if not of_way:
            continue
        seconds = [x["seconds"] for x in of_way]
        lines.append(
            f"{name:12}{len(of_way):>7}{sum(x['is_share_kept'] for x in of_way):>12}"
            f"{sum(x['is_share_within_1_percent'] for x in of_way):>12}"
            f"{sum(x['num_classes_lacking'] for x in of_way):>17}"
            f"{sum(x['num_classes_lacking'] > 0 for x in of_way):>13}"
            f"{statistics.mean(x['class_images_off_mean'] for x in of_way):>14.2f}"
            f"{statistics.median(seconds):>10.2f}{max(seconds):>8.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matrices", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    for case in cases(options.matrices):
        results.append(run(case, list(WAYS)))
        ours = results[-1]["ways"]["data split"]
        if ours["num_lacking"] or not ours["is_share_kept"]:
            print(case, ours, "at least lacking:", results[-1].get("fewest_lacking"), flush=True)
    print(table(results))
    large = [Case(100_000, 100, most, 1.0, TWO, 0) for most in (5, 10)]
    large += [Case(100_000, 1000, 10, 1.0, TWO, 0)]
    timed = [run(case, ["data split"]) for _ in range(options.repeats) for case in large]
    for case in large:
        seconds = sorted(
            r["ways"]["data split"]["seconds"]
            for r in timed
            if (r["num_classes"], r["most_labels"]) == (case.num_classes, case.most_labels)
        )
        print(
            f"{case.num_images:,} x {case.num_classes:,}, up to {case.most_labels} labels:"
            f" {statistics.median(seconds):.1f} s ({seconds[0]:.1f}-{seconds[-1]:.1f})"
        )
    if options.out is not None:
        import record  # imports torch

        environment = record.environment(record.torch.device("cpu"), "fp32")
        record.write(options.out, {"environment": environment, "results": results, "large": timed})


if __name__ == "__main__":
    main()
