"""What does each part of the recipe do? Paired differences to one base, over several seeds.

    python benchmarks/bench_recipe.py DATA [--seeds 3] [--size 32] [--epochs 6] [--out R] [--work W]
    python benchmarks/bench_recipe.py DATA --fine-tune [--arch timm/tf_efficientnet_lite0] ...

Small on purpose: the compact network from scratch at a small size or, with --fine-tune, a network
with its pretrained weights, on 40 % of the images (--share), scored on its validation part. Each
way is the base with one change, trained with the same seeds; what is shown is the mean difference
of cross-fitted micro-F1 (and of mAP), with a 95 % bootstrap interval over seeds and images at once.
A way that is finished in W is not run again, so two processes may share the work (--only).
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

from grigri_fast import Callback
from grigri_fast.config import TrainConfig
from grigri_fast.data import dataset, split
from grigri_fast.evaluation import bootstrap, metrics, thresholds
from grigri_fast.inference.predictor import Classifier
from grigri_fast.runs import run_folder
from grigri_fast.runtime import compute, files
from grigri_fast.runtime.compute import Compute
from grigri_fast.training.trainer import run

WAYS: dict[str, dict[str, Any]] = {
    "base": {},
    "sgd, lr 0.05": {"optimizer": "sgd", "lr": 0.05},
    "sgd, lr 0.1": {"optimizer": "sgd", "lr": 0.1},
    "lr halved": {"lr": 0.01},
    "lr doubled": {"lr": 0.04},
    "decay on norms and biases": {"decay_all": True},
    "no EMA": {"ema": 0.0},
    "EMA 0.99": {"ema": 0.99},
    "no flip in evaluation": {"flip_test": False},
    "crops from 8 % on": {"least_area": 0.08},
    "rotation by 25 degrees": {"rotation": 25.0},
    "colour 0.3": {"color": 0.3},
    "erasing 0.25": {"erasing": 0.25},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 0.5": {"cutmix": 0.5},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "focal loss": {"loss": "focal"},
    "asymmetric loss": {"loss": "asl"},
    "balanced sampler": {"sampler": "balanced"},
    "head at 5 times the rate": {"head_lr_factor": 5.0},
    "warm-up 0.3": {"warm_up": 0.3},
    "the report's recipe": {"recipe": "report"},
}
# With pretrained weights. The base is `best` as it is for those, with three quarters of the stages
# and the norms frozen; rates of Muon and AdamW are guesses around what their authors use.
FINE_TUNING: dict[str, dict[str, Any]] = {
    "base": {},
    "lr 0.002": {"lr": 0.002},
    "lr 0.01": {"lr": 0.01},
    "lr 0.02": {"lr": 0.02},
    "layer decay 0.8": {"layer_decay": 0.8},
    "layer decay 0.6": {"layer_decay": 0.6},
    "layer decay 0.8, lr 0.01": {"layer_decay": 0.8, "lr": 0.01},
    "layer decay 0.6, lr 0.02": {"layer_decay": 0.6, "lr": 0.02},
    "head at 5 times the rate": {"head_lr_factor": 5.0},
    "no stage frozen": {"freeze_stages": 0},
    "2 stages frozen": {"freeze_stages": 2},
    "4 stages frozen": {"freeze_stages": 4},
    "norms trained": {"freeze_norms": False},
    "norms trained, no stage frozen": {"freeze_norms": False, "freeze_stages": 0},
    "no EMA": {"ema": 0.0},
    "EMA 0.99": {"ema": 0.99},
    "EMA 0.9995": {"ema": 0.9995},
    "crops from 8 % on": {"least_area": 0.08},
    "crops from 60 % on": {"least_area": 0.6},
    "rotation by 0 degrees": {"rotation": 0.0},
    "erasing 0.25": {"erasing": 0.25},
    "colour 0.2": {"color": 0.2},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 0.5": {"cutmix": 0.5},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "asymmetric loss": {"loss": "asl"},
    "balanced sampler": {"sampler": "balanced"},
    "decay 5e-4": {"weight_decay": 5e-4},
    "decay on norms and biases": {"decay_all": True},
    "adamw, lr 0.0001": {"optimizer": "adamw", "lr": 1e-4},
    "adamw, lr 0.0003": {"optimizer": "adamw", "lr": 3e-4},
    "adamw, lr 0.0005, layer decay 0.7": {"optimizer": "adamw", "lr": 5e-4, "layer_decay": 0.7},
    "muon, lr 0.001": {"optimizer": "muon", "lr": 0.001},
    "muon, lr 0.003": {"optimizer": "muon", "lr": 0.003},
    "muon, lr 0.01": {"optimizer": "muon", "lr": 0.01},
    "twice the epochs": {"times_epochs": 2.0},
    "size times 0.75": {"times_size": 0.75},
    "size times 1.25": {"times_size": 1.25},
    "test size times 1.25": {"times_test_size": 1.25},
    "no flip in evaluation": {"flip_test": False},
    "no augmentation": {"augment": False},
    "the report's recipe": {"recipe": "report"},
}
_NUM_REPLICATES = 1000
_FROM_SCRATCH = {
    **{"arch": "grigri", "weights": "none", "work": Path("recipe-work")},
    **{"size": 32, "epochs": 6, "batch_size": 64},
}
_OF_FINE_TUNING = {
    **{"arch": "timm/tf_efficientnet_lite0", "weights": "imagenet", "work": Path("fine-tune-work")},
    **{"size": 128, "epochs": 3, "batch_size": 32},
}


def config_of(options: argparse.Namespace, parts: Path, name: str, seed: int) -> dict[str, Any]:
    """Return the options of a way's training."""
    way = dict((FINE_TUNING if options.fine_tune else WAYS)[name])
    chosen: dict[str, Any] = {"data": options.data, "arch": options.arch, "recipe": "best"}
    chosen |= {"weights": options.weights, "batch_size": options.batch_size, "seed": seed}
    chosen |= {"split": str(parts), "threads": options.threads, "compile": "off"}
    chosen["epochs"] = round(options.epochs * way.pop("times_epochs", 1))
    chosen["size"] = round(options.size * way.pop("times_size", 1))
    chosen["test_size"] = round(chosen["size"] * way.pop("times_test_size", 1))
    return chosen | way


def probabilities(options: argparse.Namespace, parts: Path, name: str, seed: int) -> np.ndarray:
    """Return a way's probabilities on the validation part (N, C), trained if need be."""
    file = options.work / f"{name.replace(' ', '-').replace('/', '-')}-{seed}.npy"
    if file.exists():
        return np.load(file)
    chosen = config_of(options, parts, name, seed)
    with tempfile.TemporaryDirectory() as out:
        folder = run(TrainConfig(**chosen, out=out), Callback()).folder
        compute = Compute.resolve(threads=options.threads)
        labelled = dataset.load(options.data)
        rows = split.read(parts, labelled).parts["val"]
        with compute.open() as budget:
            classifier = Classifier.from_file(folder / run_folder.LAST, compute)
            probabilities_NC, bad = classifier.probabilities(labelled.paths, rows, budget)
    assert not bad, bad
    np.save(file, probabilities_NC)
    return probabilities_NC


def compared(
    ours: list[np.ndarray], base: list[np.ndarray], targets_NC: np.ndarray
) -> dict[str, Any]:
    """Return scores of a way and its differences to the base, (seed by seed: N, C)."""
    counts, maps = [], []
    for probs_NC in (*ours, *base):
        predicted_NC = thresholds.cross_fit(thresholds.best_f1_threshold, probs_NC, targets_NC)
        tp_N = (predicted_NC & targets_NC).sum(1)
        wrong_N = (predicted_NC ^ targets_NC).sum(1)
        counts.append(np.stack([2 * tp_N, 2 * tp_N + wrong_N]))
        average_precision_C = metrics.average_precision(probs_NC, targets_NC)
        maps.append(metrics.mean_average_precision(average_precision_C))
    counts_S2N = np.array(counts, dtype=np.float64)
    num = len(ours)

    def differences(weights_N: np.ndarray) -> np.ndarray:
        up_S, down_S = np.moveaxis(counts_S2N @ weights_N, 1, 0)
        f1_S = up_S / down_S
        return f1_S[:num] - f1_S[num:]

    rng = np.random.default_rng(0)
    means = [
        differences(weights_N)[rng.integers(num, size=num)].mean()
        for weights_N in bootstrap.draw_weights(len(targets_NC), _NUM_REPLICATES)
    ]
    ones_N = np.ones(len(targets_NC))
    f1_S = counts_S2N.sum(2)[:, 0] / counts_S2N.sum(2)[:, 1]
    return {
        "micro_f1": f1_S[:num].tolist(),
        "mAP": maps[:num],
        "difference": float(differences(ones_N).mean()),
        "interval": np.quantile(means, [0.025, 0.975]).tolist(),
        "difference_of_mAP": float(np.mean(maps[:num]) - np.mean(maps[num:])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data")
    parser.add_argument("--fine-tune", action="store_true", help="with pretrained weights")
    parser.add_argument("--arch", help="grigri; with --fine-tune timm/tf_efficientnet_lite0")
    parser.add_argument("--weights", help="none; with --fine-tune imagenet")
    parser.add_argument("--share", type=float, default=0.4, help="of the images, to train on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, help="32; with --fine-tune 128")
    parser.add_argument("--epochs", type=int, help="6; with --fine-tune 3")
    parser.add_argument("--batch-size", type=int, help="64; with --fine-tune 32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=sorted({*WAYS, *FINE_TUNING}))
    parser.add_argument("--work", type=Path, help="recipe-work; with --fine-tune fine-tune-work")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for name, value in (_OF_FINE_TUNING if options.fine_tune else _FROM_SCRATCH).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    ways = FINE_TUNING if options.fine_tune else WAYS
    unknown = {*(options.only or ())} - {*ways}
    if unknown:
        parser.error(f"no such way here: {', '.join(sorted(unknown))}")
    options.work.mkdir(parents=True, exist_ok=True)
    labelled = dataset.load(options.data)
    # The validation part is that of `train`; of the others, the share that was asked for.
    rows = split.stratify(labelled, 0.2, 0.0, 0).parts
    mixed = np.random.default_rng(0).permutation(rows["train"])
    num = round(len(labelled) * options.share)
    few, others = np.sort(mixed[:num]), np.sort(mixed[num:])
    parts = split.Split({"train": few, "val": rows["val"], "test": others})
    parts_file = options.work / "split.json"
    files.write_atomic(parts_file, split.to_json(parts, labelled))
    targets_NC = labelled.targets_NC[rows["val"]].astype(bool)

    figures: dict[str, Any] = {}
    base: list[np.ndarray] = []
    seeds = range(options.seeds)
    print(f"{'way':34} {'micro-F1':>9} {'difference':>11}  {'95 % interval':18} {'mAP':>7}")
    for name in ["base", *(n for n in options.only or ways if n != "base")]:
        probs = [probabilities(options, parts_file, name, seed) for seed in seeds]
        base = base or probs
        one = figures[name] = compared(probs, base, targets_NC)
        low, high = one["interval"]
        print(
            f"{name:34} {np.mean(one['micro_f1']):9.4f} {one['difference']:+11.4f}"
            f"  ({low:+.4f}, {high:+.4f}) {np.mean(one['mAP']):7.4f}",
            flush=True,
        )
    environment = record.environment(compute.pick_device("auto"), "auto")
    content = {"environment": environment, "data": record.data_hash(labelled), "ways": figures}
    places = ("data", "work", "out")
    content["options"] = {k: str(v) for k, v in vars(options).items() if k not in places}
    record.write(options.out, content)


if __name__ == "__main__":
    main()
