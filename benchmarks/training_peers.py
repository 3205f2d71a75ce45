"""Fine-tune with one tool, and keep its validation probabilities after each pass over them.

    PYTHON training_peers.py TOOL SETTING.json PLAN.json FOLDER START

`bench_time_to_quality.py` starts it, with the Python that the tool is installed in: nothing of
grigri-fast is imported but for grigri-fast itself. Each tool trains as its own documentation shows
it for labels of which an image may have several; what had to be added for that is said at each.
Whatever a tool validates for itself is what is scored: no forward pass is added.

FOLDER gets `pass-N.npz` for each validation: the seconds since START (of `time.time()`, taken
before the process began), probabilities and targets (N, C).
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Passes:
    """Collects the validation of a tool, batch by batch, and writes each pass to the folder."""

    def __init__(self, folder: Path, start_s: float) -> None:
        self._folder, self._start_s = folder, start_s
        self._num_passes = 0
        self._logits: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    def add(self, logits_NC: torch.Tensor, targets_NC: torch.Tensor) -> None:
        """Take the logits and targets of a batch."""
        self._logits.append(logits_NC.detach().float().cpu())
        self._targets.append(targets_NC.detach().float().cpu())

    @property
    def num_images(self) -> int:
        """How many images of this pass there were so far."""
        return sum(map(len, self._logits))

    def end(self) -> None:
        """The pass is over: note the time, write what was collected, begin the next one."""
        seconds = time.time() - self._start_s
        part = self._folder / "part.npz"
        np.savez(
            part,
            seconds=seconds,
            probabilities_NC=torch.cat(self._logits).double().sigmoid().numpy(),
            targets_NC=torch.cat(self._targets).numpy(),
        )
        part.rename(self._folder / f"pass-{self._num_passes}.npz")  # whole, or not there
        self._num_passes += 1
        self._logits, self._targets = [], []


# ------------------------------------------------------------------------------------ grigri-fast


def train_grigri(s: dict[str, Any], plan: dict[str, Any], folder: Path, passes: Passes) -> None:
    """As `grigri-fast train DATA --arch timm/NAME --size 224`; the plan has further options."""
    from grigri_fast import Callback
    from grigri_fast.config import TrainConfig
    from grigri_fast.training import scores
    from grigri_fast.training.trainer import run

    class Log(Callback):
        def log(self, text: str) -> None:
            print(text, flush=True)

    of_logits = scores.validation

    def validation(logits_NC: np.ndarray, targets_NC: np.ndarray, *others: Any) -> Any:
        passes.add(torch.from_numpy(logits_NC), torch.from_numpy(targets_NC))
        passes.end()
        return of_logits(logits_NC, targets_NC, *others)

    scores.validation = validation  # a callback gets the scores of an epoch, not its logits
    chosen = {"data": s["data"], "split": s["split"], "out": str(folder / "runs")}
    chosen |= {"arch": f"timm/{s['network']}", "size": s["size_px"], "seed": s["seed"]}
    run(TrainConfig(**chosen | plan), Log())


# ------------------------------------------------------------------------------------------- timm


class WithLabels(torch.utils.data.Dataset):
    """Photographs as timm's `ImageDataset` gives them, but for targets: a vector (C)."""

    def __init__(self, paths: list[str], targets: list[list[float]]) -> None:
        self._paths, self._targets_NC = paths, torch.tensor(targets)
        self.transform: Any = None  # create_loader sets it

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        from PIL import Image

        with Image.open(self._paths[row]) as image:
            return self.transform(image.convert("RGB")), self._targets_NC[row]


def train_timm(s: dict[str, Any], plan: dict[str, Any], folder: Path, passes: Passes) -> None:
    """Timm's own train.py ("you have to adapt timm's training script to use your dataset").

    The script runs as it is. Three functions of timm that it calls are replaced, since its data
    sets have one class per image: create_dataset gives vectors of labels; accuracy, which cannot
    take them, keeps them with the outputs; update_summary, called once a validation is done, notes
    the time. Its options do the rest: --bce-loss is the plain binary cross-entropy on such vectors,
    whatever --smoothing, --no-prefetcher since its own collation makes integers of targets. The
    validation's loss is a softmax's, and means nothing; so checkpoints are of the last epochs.
    """
    import timm.data
    import timm.utils

    parts = {"train": s["train"], "validation": s["val"]}

    def create_dataset(*_: Any, split: str, **__: Any) -> WithLabels:
        return WithLabels(**parts[split])

    def accuracy(output_NC: torch.Tensor, targets_NC: torch.Tensor, topk: Any) -> list:
        passes.add(output_NC, targets_NC)
        return [torch.zeros(())] * len(topk)

    of_epoch = timm.utils.update_summary

    def update_summary(*arguments: Any, **named: Any) -> None:
        passes.end()
        of_epoch(*arguments, **named)

    timm.data.create_dataset = create_dataset
    timm.utils.accuracy = accuracy
    timm.utils.update_summary = update_summary

    options = {"model": s["network"], "pretrained-path": s["weights"], "device": "cpu"}
    options |= {"num-classes": len(s["classes"]), "workers": s["cores"], "seed": s["seed"]}
    options |= {"output": folder, "experiment": "run"} | plan["options"]
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--mean", *map(str, s["mean"]), "--std", *map(str, s["std"])]
    words += ["--input-size", "3", str(s["size_px"]), str(s["size_px"])]
    words += ["--pretrained", "--bce-loss", "--no-prefetcher", *plan["flags"]]
    sys.argv = [plan["script"], *words]
    runpy.run_path(plan["script"], run_name="__main__")


# ----------------------------------------------------------------------------------------- fastai


def train_fastai(s: dict[str, Any], plan: dict[str, Any], folder: Path, passes: Passes) -> None:
    """The book's chapter on multi-label classification (06_multicat), with a name of timm's.

    Its DataBlock with RandomResizedCrop(size, min_scale=0.35), vision_learner, batches of 64, and
    fine_tune with the plan's arguments. There is no mixed precision for a CPU in fastai 2.8.
    """
    import pandas as pd
    from fastai.vision import all as fv

    rows = []
    for part in ("train", "val"):
        for path, targets_C in zip(s[part]["paths"], s[part]["targets"], strict=True):
            names = [c for c, has in zip(s["classes"], targets_C, strict=True) if has]
            rows.append({"fname": path, "labels": ";".join(names), "is_valid": part == "val"})

    class Keep(fv.Callback):
        def after_loss(self) -> None:
            if not self.training:
                passes.add(self.learn.pred, self.learn.y)

        def after_validate(self) -> None:
            passes.end()

    block = fv.DataBlock(
        blocks=(fv.ImageBlock, fv.MultiCategoryBlock(vocab=s["classes"])),
        splitter=fv.ColSplitter(),
        get_x=fv.ColReader("fname"),
        get_y=fv.ColReader("labels", label_delim=";"),
        item_tfms=fv.RandomResizedCrop(s["size_px"], min_scale=0.35),
    )
    fv.set_seed(s["seed"])
    loaders = block.dataloaders(pd.DataFrame(rows), num_workers=s["cores"])
    learn = fv.vision_learner(
        loaders,
        s["network"],
        metrics=fv.partial(fv.accuracy_multi, thresh=0.2),
        path=folder,
        cbs=Keep(),
        pretrained_cfg_overlay={"file": s["weights"], "mean": s["mean"], "std": s["std"]},
    )
    learn.fine_tune(**plan)


# ----------------------------------------------------------------------------------- LightlyTrain


def train_lightly(s: dict[str, Any], plan: dict[str, Any], folder: Path, passes: Passes) -> None:
    """`train_image_classification(classification_task="multilabel")` of its documentation.

    The labels are in two CSVs. Rows with an empty label would be left out, so an image without
    labels has the delimiter alone. What it does not choose by itself: the weights' file and their
    mean and std, and the plan's: how many steps, and that each epoch is validated.

    Version 0.18.0 fails with any EfficientNet of timm's, whose `forward_intermediates` leaves out
    the last convolution, which it counts on for the number of features. So it is told to use what
    it has for networks without that method: `forward_features`, with which the network is whole.
    """
    import csv

    import lightly_train
    from lightly_train._models.timm import timm as wrapper
    from lightly_train._task_models.image_classification import train_model

    for part in ("train", "val"):
        with (folder / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_path", "label"])
            for path, targets_C in zip(s[part]["paths"], s[part]["targets"], strict=True):
                names = [c for c, has in zip(s["classes"], targets_C, strict=True) if has]
                writer.writerow([path, ",".join(names) or ","])

    wrapper._get_forward_features_fn = lambda model: wrapper._forward_features
    kind = train_model.ImageClassificationTrain
    forward, validate = kind.forward, kind.validation_step
    seen: list[torch.Tensor] = []

    def keeping_forward(self: Any, images: torch.Tensor) -> torch.Tensor:
        logits_NC = forward(self, images)
        seen[:] = [logits_NC]
        return logits_NC

    def validation_step(self: Any, fabric: Any, batch: Any, step: int) -> Any:
        result = validate(self, fabric=fabric, batch=batch, step=step)
        targets_NC = train_model._class_ids_to_multihot(batch["classes"], len(s["classes"]))
        passes.add(seen[0], targets_NC)
        if passes.num_images == len(s["val"]["paths"]):
            passes.end()
        return result

    kind.forward, kind.validation_step = keeping_forward, validation_step
    normalize = {"normalize": {"mean": s["mean"], "std": s["std"]}}
    lightly_train.train_image_classification(
        out=str(folder / "out"),
        model=f"timm/{s['network']}",
        classification_task="multilabel",
        data={
            "train": str(folder / "train.csv"),
            "val": str(folder / "val.csv"),
            "classes": dict(enumerate(s["classes"])),
        },
        accelerator="cpu",
        seed=s["seed"],
        model_args={"backbone_weights": s["weights"]},
        transform_args=normalize | {"image_size": (s["size_px"], s["size_px"])},
        **plan,
    )


TOOLS = {
    "grigri-fast": train_grigri,
    "timm": train_timm,
    "fastai": train_fastai,
    "LightlyTrain": train_lightly,
}


def main() -> None:
    tool, setting, plan, folder, start_s = sys.argv[1:]
    sys.path.pop(0)  # this folder: a tool must not find a module of ours in it
    passes = Passes(Path(folder), float(start_s))
    content = json.loads(Path(setting).read_text())
    TOOLS[tool](content, json.loads(Path(plan).read_text()), Path(folder), passes)


if __name__ == "__main__":
    main()
