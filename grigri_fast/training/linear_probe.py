"""What training begins with where weights are loaded: a head that is fitted, not trained.

The features of all images are computed once, and the best linear head on those of the training
images is found (see :mod:`probe`). That is the model of epoch 0; fine-tuning goes on from it
(Kumar et al. 2022, arXiv 2202.10054).

Shapes: N images, C classes, V views, D features.
"""

import functools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..config import TrainConfig
from ..errors import GrigriError
from ..inference import features
from ..models import heads
from ..pipeline.check import without
from . import probe, scores
from .losses import LOSSES
from .run_data import RunData
from .session import Session


@dataclass(frozen=True)
class Probed:
    """What a linear probe leaves; the network has its head.

    Attributes:
        row: the line of ``results.csv`` of epoch 0.
        val_logits_NC: of the validation images that can be used.
        dropped: by row, why a file could not be read.
    """

    row: dict[str, Any]
    val_logits_NC: NDArray[np.float32]
    dropped: dict[int, str]


def fit(session: Session, config: TrainConfig, data: RunData, network: nn.Module) -> Probed | None:
    """Fit the network's head to the features of the training images, in place.

    Of several processes the first one does it.

    Args:
        session: of the run.
        config: resolved.
        data: of the run.
        network: on the device.

    Returns:
        None for a network whose logits are no linear map of its features; it stays as it is.

    Raises:
        GrigriError: if too few images can be read, or a feature is not a finite number.
    """
    found = session.world.from_first(lambda: _fit(session, config, data, network))
    if found is None:
        why = f"the head of {config.arch} is not a linear one"
        if not config.epochs:
            raise GrigriError(f"--epochs 0 leaves nothing to do without a linear probe: {why}")
        session.callback.log(f"no linear probe: {why}")
        return None
    head, probed = found
    probe.put_head(network, head)
    data.quarantine.add(probed.dropped, session.progress.epoch)
    session.progress.history.append(probed.row)
    session.progress.train_s += probed.row["seconds"]
    return probed


def _fit(
    session: Session, config: TrainConfig, data: RunData, network: nn.Module
) -> tuple[probe.LinearHead, Probed] | None:
    """Return the fitted head, and what the probe leaves; None if the network has no linear head."""
    start_s = time.perf_counter()
    size_px = config.test_size_in(0)
    if not is_linear(network, size_px, session.compute.device):
        return None
    compute = functools.partial(
        features.compute_features,
        network,
        data.dataset.paths,
        data.checked,
        compute=session.compute,
        budget=session.budget,
        size_px=size_px,
        on_progress=session.callback.on_features,
        on_slow=session.log_own,
    )
    # Mirror images as further samples would double the time for 0.002 micro-F1
    # (benchmarks/README.md); evaluation sees them where the finished model will.
    found = compute(np.concatenate([data.train_rows, data.val_rows]), views=("whole",))
    train, val = (without(part, found.dropped) for part in (data.train_rows, data.val_rows))
    train_VND, val_VND = np.split(found.features_VND, [len(train)], axis=1)
    dropped = found.dropped
    if config.flip_test:
        mirrored = compute(val, views=("mirror",))
        is_read = ~np.isin(val, list(mirrored.dropped))
        val, val_VND = val[is_read], np.concatenate([val_VND[:, is_read], mirrored.features_VND])
        dropped = dropped | mirrored.dropped
    if len(train) < 2 or not len(val):
        raise GrigriError("too few images can be used: at least 2 to train on and 1 to score")
    if not (np.isfinite(train_VND).all() and np.isfinite(val_VND).all()):
        raise GrigriError(
            f"features of {config.arch} are not finite in {session.compute.amp}: use --amp fp32, or"
            f" --no-probe"
        )
    train_labels, val_labels = data.labels(train), data.labels(val)
    head = probe.fit_head(train_VND, *train_labels, seed=config.seed)
    val_logits_NC = head.logits(val_VND)
    loss_of = LOSSES[config.loss]
    train_scores = scores.at_half(head.logits(train_VND), *train_labels, loss_of)
    val_scores = scores.validation(val_logits_NC, *val_labels, loss_of)
    seconds = time.perf_counter() - start_s
    row = {
        "epoch": 0,
        "lr": 0.0,
        **{f"train_{k}": train_scores[k] for k in ("loss", "micro_f1", "subset_accuracy")},
        **{f"val_{k}": v for k, v in val_scores.items()},
        "images_per_s": round((len(train) + len(val)) / seconds, 1),
        "seconds": round(seconds, 2),
    }
    return head, Probed(row, val_logits_NC, dropped)


@torch.no_grad()
def is_linear(network: nn.Module, size_px: int, device: torch.device) -> bool:
    """Return whether logits are a linear map of the input of the heads, averaged over its places.

    It is tried out on noise, with a head of random weights.
    """
    layers = [layer for _, layer in heads.heads(network)]
    was_training = network.training
    generator = torch.Generator().manual_seed(0)
    noise_NCHW = torch.randn(2, 3, size_px, size_px, generator=generator).to(device)
    with heads.inputs_taken(network) as inputs:
        logits_NC = network.eval()(noise_NCHW)
    network.train(was_training)
    if len(inputs) != len(layers) or any(
        one.shape[1] != layer.weight[0].numel() for one, layer in zip(inputs, layers, strict=True)
    ):
        return False
    of_heads = [
        nn.functional.linear(one, layer.weight.flatten(1), layer.bias)
        for one, layer in zip(inputs, layers, strict=True)
    ]
    expected_NC = torch.stack(of_heads).mean(0) if of_heads else torch.zeros(0)
    return expected_NC.shape == logits_NC.shape and torch.allclose(
        logits_NC, expected_NC, rtol=1e-3, atol=1e-3
    )
