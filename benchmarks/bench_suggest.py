"""Do the photographs that `suggest` chooses teach more than any others?

    python benchmarks/bench_suggest.py DATA [--seeds 5] [--only WAY ...] [--work W] [--out R]

The training part plays the photographs without labels. A linear head on the features of a
pretrained network begins with 500 labelled ones, drawn at random; each round, a way to choose takes
200 more, whose labels are revealed, and the head is fitted again, until there are 1,500. Shown: the
cross-fitted micro-F1 on the validation part after the last round and in the mean of all rounds, its
difference to a random choice from the same start with a 95 % bootstrap interval over seeds and
images at once, and with how many labels it is as good as a random choice at the end. Features and
what is finished are kept in W, so that a piece of the work can be done at a time (--only).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit

from grigri_fast.curation import selection
from grigri_fast.data import dataset, split
from grigri_fast.evaluation import bootstrap, metrics, thresholds
from grigri_fast.inference import forward
from grigri_fast.models import factory
from grigri_fast.pipeline import check
from grigri_fast.pipeline.loader import ImageLoader
from grigri_fast.runtime import compute
from grigri_fast.runtime.compute import Compute
from grigri_fast.training import probe

START, BATCH, END = 500, 200, 1500
_THRESHOLD = 0.35  # about where micro-F1 is best
_NUM_REPLICATES = 1000


@dataclass(frozen=True)
class Pool:
    """What a way may look at: features (N, D) of length 1 and probabilities (N, C) of what is left.

    ``frequency_C`` is that of the labelled ones, of which there are ``num_labelled``.
    """

    features_ND: NDArray
    unit_ND: NDArray
    probabilities_NC: NDArray
    frequency_C: NDArray
    num_labelled: int
    rng: np.random.Generator

    @property
    def entropy_NC(self) -> NDArray:
        return _entropy(self.probabilities_NC)

    @property
    def around_threshold_NC(self) -> NDArray:
        """Entropy that is largest at the threshold instead of 0.5."""
        return _entropy(expit(logit(self._inside) - logit(_THRESHOLD)))

    @property
    def _inside(self) -> NDArray:
        return np.clip(self.probabilities_NC, 1e-6, 1 - 1e-6)

    @property
    def distance_to_threshold_N(self) -> NDArray:
        return np.abs(logit(self._inside) - logit(_THRESHOLD)).min(1)


def _entropy(p: NDArray) -> NDArray:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def _most(score_N: NDArray) -> NDArray:
    return np.argsort(-score_N)[:BATCH]


def _spread(weight_N: NDArray, unit_ND: NDArray, rng: np.random.Generator | None) -> list[int]:
    """Choose by weight times squared distance to the nearest chosen: the largest, or drawn."""
    chosen = [int(weight_N.argmax())]
    nearest_N = np.full(len(weight_N), np.inf)
    while len(chosen) < BATCH:
        nearest_N = np.minimum(nearest_N, np.maximum(1 - unit_ND @ unit_ND[chosen[-1]], 0))
        score_N = weight_N * nearest_N**2
        score_N[chosen] = 0
        if rng is None:
            chosen.append(int(score_N.argmax()))
        else:
            chosen.append(int(rng.choice(len(score_N), p=score_N / score_N.sum())))
    return chosen


def _badge(pool: Pool) -> list[int]:
    """k-means++ on the gradients of the head (Ash et al. 2020, arXiv 1906.03671)."""
    error_NC = pool.probabilities_NC - (pool.probabilities_NC >= _THRESHOLD)
    squared_N = (error_NC**2).sum(1) * (pool.features_ND**2).sum(1)
    chosen, nearest_N = [int(squared_N.argmax())], squared_N.copy()
    while len(chosen) < BATCH:
        i = chosen[-1]
        dot_N = (error_NC @ error_NC[i]) * (pool.features_ND @ pool.features_ND[i])
        nearest_N = np.minimum(nearest_N, np.maximum(squared_N + squared_N[i] - 2 * dot_N, 0))
        nearest_N[chosen] = 0
        chosen.append(int(pool.rng.choice(len(nearest_N), p=nearest_N / nearest_N.sum())))
    return chosen


def _suggest(pool: Pool) -> list[int]:
    chosen = selection.select(pool.features_ND, pool.probabilities_NC, BATCH, pool.num_labelled)
    return chosen.rows


WAYS: dict[str, Callable[[Pool], Any]] = {
    "random": lambda pool: pool.rng.choice(len(pool.unit_ND), BATCH, replace=False),
    "suggest": _suggest,
    "entropy": lambda pool: _most(pool.entropy_NC.mean(1)),
    "entropy around the threshold": lambda pool: _most(pool.around_threshold_NC.mean(1)),
    "nearest to the threshold": lambda pool: _most(-pool.distance_to_threshold_N),
    "entropy, rare classes first": lambda pool: _most(
        (pool.entropy_NC / np.sqrt(pool.frequency_C + 1e-3)).sum(1)
    ),
    "expected gradient": lambda pool: _most(
        (pool.probabilities_NC * (1 - pool.probabilities_NC)).sum(1)
        * np.linalg.norm(pool.features_ND, axis=1)
    ),
    "farthest first": lambda pool: _spread(np.ones(len(pool.unit_ND)), pool.unit_ND, None),
    "entropy x distance, drawn": lambda pool: _spread(
        pool.entropy_NC.mean(1), pool.unit_ND, pool.rng
    ),
    "BADGE": _badge,
}


def features_of(options: argparse.Namespace, data: dataset.Dataset) -> NDArray[np.float32]:
    """Return the features of all images (N, D), computed once."""
    file = options.work / "features.npy"
    if not file.exists():
        here = Compute.resolve(threads=options.threads)
        checked = check.check_images(data.paths, threads=here.threads, max_pixels=10**8)
        assert not checked.bad, checked.bad
        network = factory.build_pretrained(options.arch, 1, options.size, "imagenet")
        run = forward.with_features(forward.logits_of(network, here), network)
        with here.open():
            loader = ImageLoader(
                data.paths,
                checked,
                size_px=options.size,
                batch_size=64,
                device=here.device,
                threads=here.threads,
            )
            outputs_NE, dropped = forward.outputs(run, loader, np.arange(len(data)))
            loader.close()
        assert not dropped, dropped
        np.save(file, outputs_NE[:, 1:].astype(np.float16))
    return np.load(file).astype(np.float32)


class Experiment:
    """A data set whose training part plays the photographs without labels."""

    def __init__(self, features_ND: NDArray, data: dataset.Dataset) -> None:
        parts = split.stratify(data, 0.2, 0.0, 0).parts
        self._pool_ND, self._val_ND = features_ND[parts["train"]], features_ND[parts["val"]]
        self._targets_NC = data.targets_NC[parts["train"]]
        self.val_targets_NC = data.targets_NC[parts["val"]].astype(bool)
        spread_D = self._pool_ND.std(0) + 1e-6
        self._standard_ND = (self._pool_ND - self._pool_ND.mean(0)) / spread_D
        length_N = np.linalg.norm(self._standard_ND, axis=1, keepdims=True)
        self._unit_ND = self._standard_ND / length_N

    def run(self, name: str, seed: int) -> list[NDArray]:
        """Return the probabilities on the validation part (N, C) after each round."""
        order = np.random.default_rng(seed).permutation(len(self._pool_ND))
        rng = np.random.default_rng((seed, 1))
        labelled, rounds = order[:START], []
        while True:
            head = probe.fit_head(self._pool_ND[None, labelled], self._targets_NC[labelled], seed=0)
            rounds.append(expit(self._val_ND @ head.weight_CD.T + head.bias_C))
            if len(labelled) >= END:
                return rounds
            left = np.setdiff1d(np.arange(len(self._pool_ND)), labelled)
            pool = Pool(
                features_ND=self._standard_ND[left],
                unit_ND=self._unit_ND[left],
                probabilities_NC=expit(self._pool_ND[left] @ head.weight_CD.T + head.bias_C),
                frequency_C=self._targets_NC[labelled].mean(0),
                num_labelled=len(labelled),
                rng=rng,
            )
            chosen = np.unique(WAYS[name](pool))
            assert len(chosen) == BATCH
            labelled = np.concatenate([labelled, left[chosen]])


def _kept(work: Path, experiment: Experiment, name: str, seed: int) -> NDArray:
    """Return the probabilities of a way after each round (T, N, C), computed once."""
    file = work / f"{name.replace(' ', '-')}-{seed}.npy"
    if not file.exists():
        np.save(file, np.stack(experiment.run(name, seed)).astype(np.float32))
    return np.load(file)


class Outcome:
    """What a way leads to: micro-F1 of each seed and round, from counts per image."""

    def __init__(self, of_seeds: list[NDArray], targets_NC: NDArray[np.bool_]) -> None:
        counts, maps = [], []
        for probabilities_NC in (p for rounds in of_seeds for p in rounds):
            predicted_NC = thresholds.cross_fit(
                thresholds.best_f1_threshold, probabilities_NC, targets_NC
            )
            tp_N, wrong_N = (predicted_NC & targets_NC).sum(1), (predicted_NC ^ targets_NC).sum(1)
            counts.append(np.stack([2 * tp_N, 2 * tp_N + wrong_N]))
            maps.append(
                metrics.mean_average_precision(
                    metrics.average_precision(probabilities_NC, targets_NC)
                )
            )
        shape = (len(of_seeds), len(of_seeds[0]))
        self._counts_ST2N = np.array(counts, dtype=np.float32).reshape(*shape, 2, -1)
        self.mAP_ST = np.array(maps).reshape(shape)

    def micro_f1_ST(self, weights_N: NDArray | None = None) -> NDArray:
        counts = self._counts_ST2N
        sums = counts.sum(3) if weights_N is None else counts @ weights_N
        return sums[..., 0] / sums[..., 1]


def compared(ours: Outcome, base: Outcome, num_images: int) -> dict[str, Any]:
    """Return a way's scores, and its differences to the base, seed by seed."""
    rng = np.random.default_rng(0)
    num_seeds = len(ours.mAP_ST)
    draws = []
    for weights_N in bootstrap.draw_weights(num_images, _NUM_REPLICATES):
        difference_ST = ours.micro_f1_ST(weights_N) - base.micro_f1_ST(weights_N)
        drawn_ST = difference_ST[rng.integers(num_seeds, size=num_seeds)]
        draws.append((drawn_ST[:, 1:].mean(), drawn_ST[:, -1].mean()))
    intervals = np.quantile(draws, [0.025, 0.975], axis=0)
    f1_ST, base_ST = ours.micro_f1_ST(), base.micro_f1_ST()
    labels_T = np.arange(START, END + 1, BATCH)
    rising_T = np.maximum.accumulate(f1_ST.mean(0))
    return {
        "labels": labels_T.tolist(),
        "micro_f1": f1_ST.tolist(),
        "mAP": ours.mAP_ST.tolist(),
        "difference": float((f1_ST - base_ST)[:, 1:].mean()),
        "interval": intervals[:, 0].tolist(),
        "difference_at_the_end": float((f1_ST - base_ST)[:, -1].mean()),
        "interval_at_the_end": intervals[:, 1].tolist(),
        "labels_for_randoms_last": float(
            np.exp(np.interp(base_ST.mean(0)[-1], rising_T, np.log(labels_T)))
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arch", default="timm/tf_efficientnet_lite2")
    parser.add_argument("--size", type=int, default=260)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--work", type=Path, default=Path("suggest-work"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    data = dataset.load(options.data)
    experiment = Experiment(features_of(options, data), data)
    num_images = len(experiment.val_targets_NC)
    figures: dict[str, Any] = {}
    base: Outcome | None = None
    columns = ("difference", "95 % interval", "at the end", "95 % interval", "mAP", "labels")
    print(f"{'way':30} {'F1':>6}" + "".join(f"{name:>19}" for name in columns))
    for name in ["random", *(n for n in options.only if n != "random")]:
        of_seeds = [_kept(options.work, experiment, name, seed) for seed in range(options.seeds)]
        outcome = Outcome(of_seeds, experiment.val_targets_NC)
        base = base or outcome
        one = figures[name] = compared(outcome, base, num_images)
        cells = [
            f"{one['difference']:+.4f}",
            "({:+.4f}, {:+.4f})".format(*one["interval"]),
            f"{one['difference_at_the_end']:+.4f}",
            "({:+.4f}, {:+.4f})".format(*one["interval_at_the_end"]),
            f"{outcome.mAP_ST[:, 1:].mean():.4f}",
            f"{one['labels_for_randoms_last']:,.0f}",
        ]
        f1 = outcome.micro_f1_ST()[:, 1:].mean()
        print(f"{name:30} {f1:.4f}" + "".join(f"{cell:>19}" for cell in cells), flush=True)
    environment = record.environment(compute.pick_device("auto"), "auto")
    content = {"environment": environment, "data": record.data_hash(data), "ways": figures}
    places = ("data", "work", "out")
    content["options"] = {k: str(v) for k, v in vars(options).items() if k not in places}
    record.write(options.out, content)


if __name__ == "__main__":
    main()
