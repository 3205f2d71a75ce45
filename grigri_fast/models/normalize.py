"""Images as they are decoded -> the input of a network.

Every network here takes RGB on a scale of 0 to 1, less a mean and divided by a standard deviation
per channel. Which ones belongs to its weights, so the network carries them, as ``preprocessing``:
:mod:`factory` sets it, a checkpoint stores it.
"""

import functools
from dataclasses import dataclass

import torch
from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB on a scale of 0 to 1
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to the pixels before a network sees them: ``(x - mean) / std``.

    Attributes:
        mean, std: per RGB channel, of values from 0 to 1.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Return what a network says of its preprocessing; ImageNet's if it says nothing.

    The network may be in the wrapper that several processes train it in.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    return getattr(model, "preprocessing", Preprocessing())


def normalize(
    images_NHWC: torch.Tensor,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> torch.Tensor:
    """Return the input of a network: float32 (N, 3, H, W), channels_last, on the images' device.

    Args:
        images_NHWC: uint8 RGB. Permuted it is a channels_last tensor, without a copy.
        mean, std: per channel, of values from 0 to 1.
    """
    scale, offset = scale_and_offset(mean, std, images_NHWC.device)
    return images_NHWC.permute(0, 3, 1, 2).float().mul_(scale).sub_(offset)


@functools.cache  # so that no step waits for a copy of six numbers to the device
@torch.inference_mode(False)
def scale_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 1 / (255 std) and mean / std, each of shape (3, 1, 1): ``x * scale - offset``."""
    mean_311, std_311 = (torch.tensor(x).to(device).view(3, 1, 1) for x in (mean, std))
    return 1 / (255 * std_311), mean_311 / std_311


def forget_constants() -> None:
    """Forget the tensors that are kept; before and after fake tensors, which it would mix in."""
    scale_and_offset.cache_clear()
