"""How often does a 95 % interval hold the true score? By simulation, for each way to make one.

A population of images has scores whose distribution is known, so the true mAP, F1 and subset
accuracy at a threshold are, too (computed on 400,000 images, or 4,000 per class). Data sets are
drawn from it, with 2, 5, 20 or 200 positives per class on average, and each way makes an interval
of each. Labels are independent; the scores of an image share a part of their noise. Classes differ
in how well they are told apart.

    python benchmarks/bench_coverage.py --out result.json --figure coverage.png
"""

import argparse
import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from matplotlib import pyplot as plt
from scipy.stats import norm

from grigri_fast.evaluation import bootstrap, metrics, thresholds
from grigri_fast.evaluation.bootstrap import Interval

POSITIVES = (2, 5, 20, 200)
CLASSES = (1, 10, 40)
FREQUENCIES = (0.02, 0.2)
SEPARATIONS = {"hard": 0.5, "easy": 2.5}  # mean distance of positives, in standard deviations
SHARED_NOISE = 0.3  # share of the variance that the scores of an image have in common
SCORES = ("mAP", "macro-F1", "micro-F1", "subset accuracy")
OURS = "halves, Wilson"
MOST_LABELS = 60_000  # images x classes of a data set
_Z = 1.959964


def sample(
    rng: np.random.Generator, num_images: int, num_classes: int, frequency: float, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and targets (N, C)."""
    targets_NC = rng.random((num_images, num_classes)) < frequency
    shared_N1 = rng.normal(size=(num_images, 1))
    own_NC = rng.normal(size=(num_images, num_classes))
    distance_C = distance * (np.linspace(0.6, 1.4, num_classes) if num_classes > 1 else np.ones(1))
    noise_NC = SHARED_NOISE**0.5 * shared_N1 + (1 - SHARED_NOISE) ** 0.5 * own_NC
    return noise_NC + distance_C * targets_NC, targets_NC


def values(scores_NC: np.ndarray, targets_NC: np.ndarray, threshold: float) -> dict[str, float]:
    """Return the four scores of one set of images."""
    predicted_NC = scores_NC >= threshold
    c = metrics.count(predicted_NC, targets_NC)
    ap_C = metrics.average_precision(scores_NC, targets_NC)
    return {
        "mAP": metrics.mean_average_precision(ap_C),
        "macro-F1": float(metrics.macro_f1(c)),
        "micro-F1": float(metrics.micro_f1(c)),
        "subset accuracy": metrics.subset_accuracy(predicted_NC, targets_NC),
    }


def replicates(
    scores_NC: np.ndarray, targets_NC: np.ndarray, threshold: float, weights_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the four scores of each replicate (R,)."""
    predicted_NC = scores_NC >= threshold
    c_R = bootstrap.weighted_counts(predicted_NC, targets_NC, weights_RN)
    right_N = (predicted_NC == targets_NC).all(1).astype(np.float32)
    return {
        "mAP": bootstrap.replicated_map(scores_NC, targets_NC, weights_RN).replicates_R,
        "macro-F1": metrics.macro_f1(c_R),
        "micro-F1": metrics.micro_f1(c_R),
        "subset accuracy": metrics.ratio(weights_RN @ right_N, weights_RN.sum(1)),
    }


def draws(num_images: int, num_replicates: int, seed: int) -> np.ndarray:
    """Return how often each replicate has each image: the bootstrap of Efron 1979."""
    rng = np.random.default_rng(seed)
    of_images = rng.integers(num_images, size=(num_replicates, num_images))
    return np.stack([np.bincount(d, minlength=num_images) for d in of_images]).astype(np.float32)


def stratified(targets_N: np.ndarray, num_replicates: int, seed: int) -> np.ndarray:
    """Return draws with as many positives and negatives as there are (for one class)."""
    weights_RN = np.zeros((num_replicates, len(targets_N)), np.float32)
    for value in (True, False):
        rows = np.flatnonzero(targets_N == value)
        if len(rows):
            weights_RN[:, rows] = draws(len(rows), num_replicates, seed)
    return weights_RN


# ------------------------------------------------------------- the ways to make an interval


def percentile(value: float, known: np.ndarray) -> tuple[float, float]:
    return tuple(np.percentile(known, [2.5, 97.5]))


def basic(value: float, known: np.ndarray) -> tuple[float, float]:
    low, high = percentile(value, known)
    return 2 * value - high, 2 * value - low


def normal(value: float, known: np.ndarray) -> tuple[float, float]:
    return value - _Z * known.std(), value + _Z * known.std()


def bias_corrected(value: float, known: np.ndarray, acceleration: float = 0) -> tuple:
    """Efron's BC, or BCa with the acceleration of the jackknife."""
    share = (known < value).mean() + (known == value).mean() / 2
    z0 = norm.ppf(np.clip(share, 0.5 / len(known), 1 - 0.5 / len(known)))
    ends = z0 + np.array([-_Z, _Z])
    return tuple(np.quantile(known, norm.cdf(z0 + ends / (1 - acceleration * ends))))


def logit(p: np.ndarray | float) -> np.ndarray:
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.log(p / (1 - p))


def logit_basic(value: float, known: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(logit(known), [2.5, 97.5])
    return tuple(1 / (1 + np.exp(-(2 * logit(value) - np.array([high, low])))))


def acceleration_of(value: float, left_out_N: np.ndarray) -> float:
    """Return BCa's acceleration, from the scores without each of the images."""
    left_out_N = left_out_N[~np.isnan(left_out_N)]
    away = left_out_N.mean() - left_out_N
    spread = (away**2).sum()
    return float((away**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0


OF_DRAWS: dict[str, Callable] = {
    "percentile": percentile,
    "basic": basic,
    "normal": normal,
    "bias-corrected": bias_corrected,
    "logit, basic": logit_basic,
}


def ways(
    scores_NC: np.ndarray, targets_NC: np.ndarray, threshold: float, num_replicates: int, seed: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return by score and way the bounds of its interval; a way without one is left out."""
    num_images, num_classes = targets_NC.shape
    value_of = values(scores_NC, targets_NC, threshold)
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in SCORES}

    def replicated(weights_RN: np.ndarray) -> dict[str, np.ndarray]:
        return replicates(scores_NC, targets_NC, threshold, weights_RN)

    of_draws = replicated(draws(num_images, num_replicates, seed))
    for name, reps_R in of_draws.items():
        known = reps_R[~np.isnan(reps_R)]
        for way, make in OF_DRAWS.items():
            found[name][way] = make(value_of[name], known)
    if num_images <= 250:
        left_out = replicated(1 - np.eye(num_images, dtype=np.float32))
        for name, reps_R in of_draws.items():
            known, value = reps_R[~np.isnan(reps_R)], value_of[name]
            a = acceleration_of(value, left_out[name])
            found[name]["BCa"] = bias_corrected(value, known, a)
    if num_classes == 1:
        of_strata = replicated(stratified(targets_NC[:, 0], num_replicates, seed))
        for name, reps_R in of_strata.items():
            found[name]["stratified, percentile"] = percentile(value_of[name], reps_R)
    weights_RN = bootstrap.draw_weights(num_images, num_replicates, seed)
    for name, reps_R in replicated(weights_RN).items():
        found[name]["halves, basic"] = basic(value_of[name], reps_R[~np.isnan(reps_R)])
    mean_ap = bootstrap.map_interval(scores_NC, targets_NC, weights_RN)
    ours = bootstrap.scores_with_intervals(scores_NC >= threshold, targets_NC, mean_ap, weights_RN)
    for name in SCORES:
        field = name.lower().replace("-", "_").replace(" ", "_")
        interval: Interval = getattr(ours, field, mean_ap)
        if not np.isnan(interval.low):
            found[name][OURS] = (interval.low, interval.high)
    return found


def simulate(setting: dict[str, Any], num_sets: int, num_replicates: int) -> dict[str, Any]:
    """Return by score and way: how many intervals hold the truth, hold the value, their width."""
    num_classes, frequency = setting["classes"], setting["frequency"]
    distance = SEPARATIONS[setting["separation"]]
    rng = np.random.default_rng([setting["positives"], num_classes, int(100 * frequency)])
    num_population = max(400_000 // num_classes, 4000 * 10)
    population = sample(rng, num_population, num_classes, frequency, distance)
    threshold = thresholds.best_f1_threshold(*population)
    truth = values(*population, threshold)
    num_images = round(setting["positives"] / frequency)
    tally = {name: {} for name in SCORES}
    num_used = 0
    for number in range(num_sets):
        drawn = sample(rng, num_images, num_classes, frequency, distance)
        if not drawn[1].any():
            continue
        num_used += 1
        here = values(*drawn, threshold)
        for name, by_way in ways(*drawn, threshold, num_replicates, number).items():
            for way, (low, high) in by_way.items():
                one = tally[name].setdefault(
                    way, {"intervals": 0, "covers": 0, "holds_its_value": 0, "width": 0.0}
                )
                one["intervals"] += 1
                one["covers"] += int(low - 1e-9 <= truth[name] <= high + 1e-9)
                one["holds_its_value"] += int(low - 1e-9 <= here[name] <= high + 1e-9)
                one["width"] += min(high, 1.0) - max(low, 0.0)
    for by_way in tally.values():
        for one in by_way.values():
            one["width"] = round(one["width"] / one["intervals"], 4)
    return setting | {"images": num_images, "sets": num_used, "truth": truth, "ways": tally}


def coverage(results: list[dict], name: str, way: str, positives: int) -> list[float]:
    """Return the coverage in each setting; those where few sets got an interval are left out."""
    return [
        100 * one["covers"] / one["intervals"]
        for r in results
        if r["positives"] == positives
        and (one := r["ways"][name].get(way))
        and one["intervals"] >= r["sets"] / 2
    ]


def draw(results: list[dict], path: Path) -> None:
    """Draw the coverage of each way: a dot per setting, a panel per score."""
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "coverage"})
    all_ways = [*OF_DRAWS, "BCa", "stratified, percentile", "halves, basic", OURS]
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab10").colors
    for axes, name in zip(panels.ravel(), SCORES, strict=True):
        axes.axhspan(90, 97, color="#2a9d4a", alpha=0.15, lw=0)
        axes.axhline(95, color="#2a9d4a", lw=1)
        for w, way in enumerate(all_ways):
            xs, ys = [], []
            for p, positives in enumerate(POSITIVES):
                of_way = coverage(results, name, way, positives)
                ys += of_way
                xs += [p + (w - len(all_ways) / 2 + 0.5) * 0.085] * len(of_way)
            is_ours = way == OURS
            axes.plot(
                xs, ys, ls="", marker="D" if is_ours else "o", ms=5 if is_ours else 3.5,
                color="black" if is_ours else colours[w], alpha=0.85,
                label=way if name == SCORES[0] else None,
            )  # fmt: skip
        axes.set_title(name)
        axes.set_xticks(range(len(POSITIVES)), [str(p) for p in POSITIVES])
        axes.set(xlabel="positives per class, on average", ylabel="coverage, %", ylim=(-3, 103))
        axes.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle("How often 95 % intervals hold the true score: a dot per setting")
    figure.savefig(path, dpi=110)


def table(results: list[dict]) -> str:
    """Return the lowest, median and highest coverage of each way as lines of Markdown."""
    lines = []
    for name in SCORES:
        lines += [
            f"\n| {name} | " + " | ".join(f"{p} positives" for p in POSITIVES) + " |",
            "|---" * (1 + len(POSITIVES)) + "|",
        ]
        for way in [*OF_DRAWS, "BCa", "stratified, percentile", "halves, basic", OURS]:
            cells = []
            for positives in POSITIVES:
                c = coverage(results, name, way, positives)
                cells.append(f"{min(c):.0f} / {np.median(c):.0f} / {max(c):.0f}" if c else "-")
            lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=300, help="data sets per setting")
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    start_s, results = time.perf_counter(), []
    for positives, num_classes, frequency, separation in itertools.product(
        POSITIVES, CLASSES, FREQUENCIES, SEPARATIONS
    ):
        if positives / frequency * num_classes > MOST_LABELS:
            continue
        setting = {
            "positives": positives,
            "classes": num_classes,
            "frequency": frequency,
            "separation": separation,
        }
        results.append(simulate(setting, options.sets, options.replicates))
        ours = {name: by_way.get(OURS) for name, by_way in results[-1]["ways"].items()}
        words = (
            f"{name} {100 * one['covers'] / one['intervals']:.0f} of {one['intervals']}"
            for name, one in ours.items()
            if one
        )
        print(*setting.values(), "|", ", ".join(words), flush=True)
    print(table(results))
    record.write(
        options.out,
        {
            **record.environment(torch.device("cpu"), "fp32"),
            "sets": options.sets,
            "replicates": options.replicates,
            "seconds": round(time.perf_counter() - start_s),
            "settings": results,
        },
    )
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
