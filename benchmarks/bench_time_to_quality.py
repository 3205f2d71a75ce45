"""How many minutes of training until a micro-F1 is reached, and with which tool?

    python benchmarks/bench_time_to_quality.py DATA --timm-script TRAIN.PY \
        --python fastai=PYTHON LightlyTrain=PYTHON [--seeds 1] [--work W] [--out R]

The same network, weights, photographs, split, size and cores for all: grigri-fast, timm's own
training script, fastai, LightlyTrain, each as its documentation shows it (`training_peers.py` says
how). The clock runs from the start of the process, imports and reading of the data included, to the
end of the validation by the tool itself in which the micro-F1 is reached. The score is the same for
all: cross-fitted, that is with one threshold that was chosen on the other images. What is written
for it costs some milliseconds per validation.

The other tools get what grigri-fast gives itself on a CPU: memory that is freed stays with the
process (--plain-malloc: they do not).

A tool is stopped when it has reached the highest target (--to-the-end: it is not). A training that
is in W is not run again, so the command may be interrupted and repeated. `--only` takes some of the
plans, `--limit 200` tries it all out.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

from grigri_fast.data import dataset, split
from grigri_fast.evaluation import metrics, thresholds
from grigri_fast.models import weights
from grigri_fast.runtime import compute, files

NETWORK = "tf_efficientnet_lite0"
_MEAN, _STD = [127 / 255] * 3, [128 / 255] * 3  # of the package's weights
_POLL_S = 0.5
# What grigri-fast does by itself (`compute.keep_freed_memory`), for the others: freed blocks stay
# with the process, in huge pages. How much that saves depends on the machine: on a virtual one,
# where the system's zeroed pages are dear, it may be most of a step.
_KEEP_FREED_MEMORY = (
    "glibc.malloc.mmap_max=0"
    ":glibc.malloc.trim_threshold=18446744073709551615"
    ":glibc.malloc.hugetlb=1"
)

# Tool and its own options of each plan. A tool may have several: its best is what counts. The
# documentations of timm's script and of LightlyTrain have no number of epochs for this (their
# defaults, of pretraining, are 300 epochs and 100,000 steps): it is --epochs.
PLANS: dict[str, tuple[str, dict[str, Any]]] = {
    "grigri-fast": ("grigri-fast", {}),
    # Default optimizer, rate and batch size of 128; 1 epoch of warm-up instead of 5 of 300.
    "timm": ("timm", {"options": {"warmup-epochs": 1}, "flags": []}),
    "timm, bf16": (
        "timm",
        {
            "options": {"warmup-epochs": 1, "amp-dtype": "bfloat16"},
            "flags": ["--amp", "--channels-last"],
        },
    ),
    # The book's chapter on multi-label classification; the defaults of fine_tune.
    "fastai": ("fastai", {"epochs": 3, "base_lr": 3e-3, "freeze_epochs": 4}),
    "fastai, defaults": ("fastai", {"epochs": 4, "freeze_epochs": 1}),
    # Default optimizer, rate, batch size of 16 and, in the first, precision.
    "LightlyTrain": ("LightlyTrain", {"precision": "bf16-mixed"}),
    "LightlyTrain, fp32": ("LightlyTrain", {"precision": "32-true"}),
}
_LIGHTLY_BATCH = 16


def write_weights(file: Path) -> None:
    """Write the ImageNet weights of the installed package under timm's names."""
    import timm

    found = weights.in_package(f"timm/{NETWORK}")
    if found is None:
        raise SystemExit(f"the package with the weights of {NETWORK} is not installed")
    names = timm.create_model(NETWORK).state_dict()
    state = weights.of_package(*found, names).state
    torch.save({name: tensor.contiguous() for name, tensor in state.items()}, file)


def prepare(options: argparse.Namespace, seed: int) -> tuple[Path, np.ndarray]:
    """Write what all tools get, and return its file and the validation's targets (N, C)."""
    labelled = dataset.load(options.data)
    parts = split.stratify(labelled, 0.2, 0.0, 0)
    if options.limit:
        parts = parts.limited(options.limit, 0)
    split_file, weights_file = options.work / "split.json", options.work / f"{NETWORK}.pth"
    files.write_atomic(split_file, split.to_json(parts, labelled))
    if not weights_file.exists():
        write_weights(weights_file)
    setting: dict[str, Any] = {
        "data": str(Path(options.data).absolute()),
        "split": str(split_file),
        "network": NETWORK,
        "weights": str(weights_file),
        "mean": _MEAN,
        "std": _STD,
        "size_px": options.size,
        "classes": labelled.class_names,
        "cores": len(os.sched_getaffinity(0)),
        "seed": seed,
    }
    for part in ("train", "val"):
        rows = parts.parts[part]
        paths = [labelled.paths[row].absolute() for row in rows]
        for path in paths:
            path.read_bytes()  # the first tool must not be the one that waits for the disk
        targets = labelled.targets_NC[rows].tolist()
        setting[part] = {"paths": list(map(str, paths)), "targets": targets}
    file = options.work / f"setting-{seed}.json"
    files.write_json(file, setting)
    return file, labelled.targets_NC[parts.parts["val"]].astype(bool)


def scores_of(passes: Path, targets_NC: np.ndarray, known: list[dict]) -> None:
    """Append the scores of the validations in a folder that are not yet known."""
    while (file := passes / f"pass-{len(known)}.npz").exists():
        with np.load(file) as content:
            seconds, probs_NC = float(content["seconds"]), content["probabilities_NC"]
            if not np.array_equal(content["targets_NC"] > 0.5, targets_NC):
                raise SystemExit(f"{file}: the images are others than those of the split")
        predicted_NC = thresholds.cross_fit(thresholds.best_f1_threshold, probs_NC, targets_NC)
        average_precision_C = metrics.average_precision(probs_NC, targets_NC)
        known.append(
            {
                "seconds": round(seconds, 1),
                "micro_f1": float(metrics.micro_f1(metrics.count(predicted_NC, targets_NC))),
                "mAP": float(metrics.mean_average_precision(average_precision_C)),
            }
        )
        print(
            f"    {seconds / 60:6.2f} min  micro-F1 {known[-1]['micro_f1']:.4f}"
            f"  mAP {known[-1]['mAP']:.4f}",
            flush=True,
        )


def plan_of(name: str, options: argparse.Namespace, num_train: int) -> tuple[str, dict[str, Any]]:
    """Return the tool of a plan and the options that it takes, for so many training images."""
    tool, own = PLANS[name]
    own = dict(own)
    if tool == "timm":
        own["script"] = str(options.timm_script.absolute())
        own["options"] = own["options"] | {"epochs": options.epochs}
    if tool == "LightlyTrain":  # it counts steps, not epochs, and validates after some of them
        steps = max(1, num_train // _LIGHTLY_BATCH)
        own |= {"steps": options.epochs * steps, "logger_args": {"val_every_num_steps": steps}}
    return tool, own


def train(
    name: str, options: argparse.Namespace, setting: Path, seed: int, targets_NC: np.ndarray
) -> dict[str, Any] | None:
    """Return the scores over time of a plan; train if they are not in the work folder.

    None if the tool failed: the others go on.
    """
    folder = options.work / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    done = folder / "done.json"
    if done.exists():
        return files.read_json(done)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    num_train = len(files.read_json(setting)["train"]["paths"])
    tool, own = plan_of(name, options, num_train)
    files.write_json(folder / "plan.json", own)
    places = [setting, folder / "plan.json", folder]
    command = [
        options.pythons.get(tool, sys.executable),
        str(Path(__file__).with_name("training_peers.py")),
        tool,
        *map(str, places),
    ]
    # No cache of an earlier training, no attempt to reach a network.
    quiet = {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    quiet |= {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "PYTHONPATH": str(record.ROOT)}
    quiet |= {"LIGHTLY_TRAIN_CACHE_DIR": str(folder / "cache")}
    if tool != "grigri-fast" and not options.plain_malloc:
        quiet["GLIBC_TUNABLES"] = _KEEP_FREED_MEMORY
    passes: list[dict] = []
    load = os.getloadavg()
    with (folder / "output.txt").open("w") as output:
        command.append(str(time.time()))
        start_s = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | quiet, cwd=folder
        )
        try:
            while process.poll() is None:
                time.sleep(_POLL_S)
                scores_of(folder, targets_NC, passes)
                best = max((p["micro_f1"] for p in passes), default=0.0)
                reached = best >= max(options.targets) and not options.to_the_end
                if reached or time.perf_counter() - start_s > 60 * options.minutes:
                    break
        finally:
            was_stopped = process.poll() is None
            _end(process)
        seconds = time.perf_counter() - start_s
    scores_of(folder, targets_NC, passes)
    if process.returncode != 0 and not was_stopped:
        last = (folder / "output.txt").read_text().strip().splitlines()[-12:]
        print("\n".join([f"{name} ended with code {process.returncode}:", *last]))
        return None
    result = {
        "tool": tool,
        "options": {k: v for k, v in own.items() if k != "script"},
        "seed": seed,
        "passes": passes,
        "seconds": round(seconds, 1),
        "was_stopped": was_stopped,
        "load_average_before": load,
    }
    files.write_json(done, result)
    return result


def _end(process: subprocess.Popen) -> None:
    """End a process of ours, and wait for it; its workers end with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def minutes_until(passes: list[dict], target: float) -> float | None:
    """Return the minutes until a micro-F1 was reached, None if it was not."""
    reached = [p["seconds"] / 60 for p in passes if p["micro_f1"] >= target]
    return round(reached[0], 2) if reached else None


def table(results: dict[str, list[dict]], targets: list[float]) -> str:
    """Return Markdown: for each plan the minutes until each target, seed by seed, and its best."""
    head = [f"minutes until {target:.2f}" for target in targets]
    lines = [
        "| plan | " + " | ".join(head) + " | highest micro-F1 | after minutes |",
        "|---|" + "---|" * (len(targets) + 2),
    ]
    for name, runs in results.items():
        cells = [name]
        for target in targets:
            some = [minutes_until(run["passes"], target) for run in runs]
            cells.append(", ".join("not reached" if m is None else f"{m:.1f}" for m in some))
        best = [max(run["passes"], key=lambda p: p["micro_f1"]) for run in runs if run["passes"]]
        cells.append(", ".join(f"{p['micro_f1']:.3f}" for p in best))
        cells.append(", ".join(f"{p['seconds'] / 60:.1f}" for p in best))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def versions(pythons: dict[str, str]) -> dict[str, str]:
    """Return the versions of the tools, and of PyTorch where a tool has one of its own."""
    packages = {"timm": "timm", "fastai": "fastai", "LightlyTrain": "lightly-train"}
    code = "import sys; from importlib.metadata import version as v; print(v(sys.argv[1]))"
    found = {}
    for tool, package in packages.items():
        for what in (package, "torch"):
            command = [pythons.get(tool, sys.executable), "-c", code, what]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            found[tool if what == package else f"{tool}'s torch"] = answer.stdout.strip()
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data")
    parser.add_argument("--timm-script", type=Path, help="train.py of timm's repository")
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="TOOL=PYTHON",
        help="the Python that a tool is installed in; this one if not given",
    )
    parser.add_argument("--only", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--targets", type=float, nargs="+", default=[0.70, 0.74])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=5, help="of timm's script, LightlyTrain")
    parser.add_argument("--minutes", type=float, default=40, help="the most that a plan may take")
    parser.add_argument("--to-the-end", action="store_true")
    parser.add_argument(
        "--plain-malloc", action="store_true", help="leave the others' memory to the system"
    )
    parser.add_argument("--limit", type=int, help="use so many photographs, to try things")
    parser.add_argument("--work", type=Path, default=Path("time-to-quality-work"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.pythons = dict(entry.split("=", 1) for entry in options.python)
    if options.timm_script is None and any(PLANS[name][0] == "timm" for name in options.only):
        parser.error("timm's plans need --timm-script, or name the others with --only")
    options.work = options.work.absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def main() -> None:
    options = _options()
    results: dict[str, list[dict]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        setting, targets_NC = prepare(options, seed)
        for name in options.only:
            print(f"{name}, seed {seed}", flush=True)
            run = train(name, options, setting, seed, targets_NC)
            results[name] += [run] if run else []
    print(table(results, options.targets))
    environment = record.environment(compute.pick_device("auto"), "auto")
    environment["tools"] = versions(options.pythons)
    environment["command"] = re.sub(r"[^=\s]*/", "", environment["command"])  # without places
    content: dict[str, Any] = {
        "environment": environment,
        "data": record.data_hash(dataset.load(options.data)),
        "network": NETWORK,
        "size_px": options.size,
        "epochs": options.epochs,
        "minutes": options.minutes,
        "plain_malloc": options.plain_malloc,
        "targets": options.targets,
        "cores": len(os.sched_getaffinity(0)),
        "plans": results,
    }
    record.write(options.out, content)


if __name__ == "__main__":
    main()
