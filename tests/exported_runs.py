"""Runs of untrained networks that tell images apart, to export and to predict with."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from small_set import CLASSES

from grigri_fast.config import TrainConfig
from grigri_fast.data import dataset, split
from grigri_fast.models import factory, heads, normalize
from grigri_fast.pipeline import loader as pipeline
from grigri_fast.pipeline.check import check_images
from grigri_fast.runs import checkpoint, run_folder
from grigri_fast.runs.checkpoint import ModelInfo
from grigri_fast.runtime.option import write_toml

CPU = torch.device("cpu")


def make_run(folder: Path, photos: Path, arch: str, size_px: int, **info: object) -> Path:
    """Write a run of an untrained network that tells images apart; nothing is symmetric in it."""
    folder.mkdir(parents=True)
    config = TrainConfig(data=str(photos), arch=arch, weights="none", size=size_px)
    (folder / run_folder.CONFIG).write_text(write_toml(config))
    labelled = dataset.load(str(photos))
    parts = split.stratify(labelled, 0.25, 0.0, 0)
    (folder / run_folder.SPLIT).write_text(split.to_json(parts, labelled))
    torch.manual_seed(1)
    model = factory.build(arch, len(CLASSES), size_px, init="he")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    stored = {"flip_test": True, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)} | info
    made = ModelInfo(arch, size_px, list(CLASSES), **stored)
    checkpoint.save(folder / run_folder.LAST, with_spread(model.eval(), made, labelled.paths), made)
    return folder


def with_spread(model: torch.nn.Module, info: ModelInfo, paths: list[Path]) -> torch.nn.Module:
    """Return the network with a head whose probabilities spread from 0.1 to 0.9."""
    logits_NC = logits_of(model, info, pixels(paths, info.size_px))
    layer = heads.heads(model)[-1][1]
    low_C, high_C = logits_NC.min(0).values, logits_NC.max(0).values
    factor_C = 2 * math.log(9) / (high_C - low_C)
    with torch.no_grad():
        layer.weight.mul_(factor_C.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.copy_((layer.bias - (low_C + high_C) / 2) * factor_C)
    return model


def logits_of(model: torch.nn.Module, info: ModelInfo, images_NHWC: torch.Tensor) -> torch.Tensor:
    """Return the logits as they were before anything was exported."""
    with torch.inference_mode():
        inputs_NCHW = normalize.normalize(images_NHWC, info.mean, info.std)
        logits_NC = model(inputs_NCHW)
        if info.flip_test:
            logits_NC = (logits_NC + model(inputs_NCHW.flip(3))) / 2
    return logits_NC.clone()


def pixels(paths: list[Path], size_px: int) -> torch.Tensor:
    """Return what evaluation sees of image files."""
    rows = np.arange(len(paths))
    found = check_images(paths, rows, threads=1, max_pixels=10**7)
    options = {"size_px": size_px, "batch_size": 16, "device": CPU, "threads": 1}
    loader = pipeline.ImageLoader(paths, found, **options)
    images_NHWC = torch.cat([batch.images_NHWC for batch in loader.eval_epoch(rows)])
    loader.close()
    return images_NHWC


def predicted(cli, *args: object) -> list[dict]:
    out = Path(args[0]).parent / "predicted.json"
    code, _, err = cli("predict", *args, "--out", out, "--threads=1")
    assert code == 0, err
    return json.loads(out.read_text())


def probabilities(predictions: list[dict]) -> np.ndarray:
    return np.array([[p["probabilities"][name] for name in CLASSES] for p in predictions])
