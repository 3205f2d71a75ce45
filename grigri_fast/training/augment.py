"""What is done to a batch on the device before a step: colour, erasing, blending, smoothing.

Geometry is not here: a crop, flip or rotation is part of the one warp of each image (``affine``).
What is drawn depends on seed, epoch and row (colour, erasing) or batch (blending) alone, so that a
resumed run goes on with the same numbers. It is drawn on the host; what belongs to images is copied
to the device once an epoch, and what belongs to a batch goes along with the operations, so that no
step waits for a copy.

Shapes: N images, C classes, S = their side.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..config import TrainConfig
from ..pipeline import batching
from . import losses

_LUMA = (0.299, 0.587, 0.114)  # of RGB, as in ITU-R BT.601 and torchvision
# Random erasing (Zhong et al. 2017, arXiv 1708.04896): area and aspect of the rectangle.
_ERASED_AREA = (0.02, 0.33)
_ERASED_ASPECT = (0.3, 3.3)


@dataclass(frozen=True)
class Blend:
    """How the images of a batch are blended with their neighbours.

    Attributes:
        share: of an image's own in the blend, for mixup; None for cutmix.
        box: (top, left, bottom, right) of what cutmix takes from the neighbour, as shares of the
            side.
    """

    share: float | None = None
    box: tuple[float, float, float, float] | None = None


class Augmentation:
    """Colour, erasing, mixup, cutmix and label smoothing, as a resolved config says.

    Args:
        config: of the run.
        num_images: rows of the data set.
        device: of the batches.
        mean: colour that is neither bright nor dark for the network, RGB from 0 to 1.
    """

    def __init__(
        self,
        config: TrainConfig,
        num_images: int,
        device: torch.device,
        mean: tuple[float, ...],
    ) -> None:
        self._config, self._num_images, self._device = config, num_images, device
        self._luma_3, mean_3 = (torch.tensor(values).to(device) for values in (_LUMA, mean))
        self._mean_3 = mean_3 * 255
        self._epoch = 0
        self._factors_N3 = self._boxes_N4 = None

    def start_epoch(self, epoch: int) -> None:
        """Draw what belongs to each image in this epoch."""
        c, self._epoch = self._config, epoch
        rng = batching.epoch_rng(c.seed, epoch, "colors")
        n = self._num_images
        if c.color:
            factors_N3 = rng.uniform(1 - c.color, 1 + c.color, (n, 3))
            self._factors_N3 = torch.from_numpy(factors_N3).float().to(self._device)
        if c.erasing:
            boxes_N4 = erased_boxes(rng, n, c.erasing)
            self._boxes_N4 = torch.from_numpy(boxes_N4).float().to(self._device)

    def __call__(
        self,
        images_NHWC: torch.Tensor,
        labels: torch.Tensor,
        rows_N: torch.Tensor,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (uint8) and labels (float32) to train on.

        Args:
            images_NHWC: uint8 RGB on the device.
            labels: targets, or those with weights (see ``losses``), on the device.
            rows_N: rows of the data set, on the device.
            position: the batch's place in the epoch, from 1.
        """
        c = self._config
        if c.color or c.erasing or c.mixup or c.cutmix:
            images = images_NHWC.float()
            if c.color:
                images = recolored(images, self._factors_N3[rows_N], self._luma_3)
            if c.erasing:
                images = erased(images, self._boxes_N4[rows_N], self._mean_3)
            if c.mixup or c.cutmix:
                rng = batching.epoch_rng(c.seed, self._epoch, "mixing", position)
                blend = drawn_blend(rng, c.mixup, c.cutmix)
                images, labels = blended(images, labels, blend)
            images_NHWC = images.round_().clamp_(0, 255).to(torch.uint8)
        if c.label_smoothing:
            labels = losses.smoothed(labels, c.label_smoothing)
        return images_NHWC, labels


def recolored(
    images_NHWC: torch.Tensor, factors_N3: torch.Tensor, luma_3: torch.Tensor
) -> torch.Tensor:
    """Return float images with other brightness, contrast and saturation.

    The factors are those of torchvision's ColorJitter, in this order: colours times the first; away
    from the image's mean gray by the second; away from each pixel's gray by the third. ``luma_3``
    has the weights of RGB in gray, on the device.
    """
    brightness, contrast, saturation = factors_N3.T[:, :, None, None, None]
    images = images_NHWC * brightness
    mean = (images @ luma_3).mean((1, 2))[:, None, None, None]
    images = torch.lerp(mean, images, contrast)
    return torch.lerp((images @ luma_3)[..., None], images, saturation)


def erased_boxes(
    rng: np.random.Generator, num_images: int, share: float
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return rectangles (N, 4) of (top, left, bottom, right), as shares of the side.

    One in ``share`` of the images; the others have an empty one.
    """
    area = rng.uniform(*_ERASED_AREA, num_images)
    aspect = np.exp(rng.uniform(*np.log(_ERASED_ASPECT), num_images))
    height, width = np.minimum(1, np.sqrt(area * aspect)), np.minimum(1, np.sqrt(area / aspect))
    top, left = rng.random(num_images) * (1 - height), rng.random(num_images) * (1 - width)
    boxes_N4 = np.stack([top, left, top + height, left + width], axis=1)
    boxes_N4[rng.random(num_images) >= share] = 0
    return boxes_N4


def erased(
    images_NHWC: torch.Tensor, boxes_N4: torch.Tensor, color_3: torch.Tensor
) -> torch.Tensor:
    """Return float images with a rectangle of a colour (RGB, 0 to 255) painted over each."""
    inside_NHW = _inside(boxes_N4.T[:, :, None], images_NHWC)
    return torch.where(inside_NHW[..., None], color_3, images_NHWC)


def drawn_blend(rng: np.random.Generator, mixup: float, cutmix: float) -> Blend:
    """Return how to blend a batch.

    Args:
        rng: where numbers come from.
        mixup: A of Beta(A, A), 0 for none (Zhang et al. 2017, arXiv 1710.09412).
        cutmix: share of the batches that get it (Yun et al. 2019, arXiv 1905.04899).
    """
    if rng.random() < cutmix:
        side = np.sqrt(1 - rng.random())
        centre_y, centre_x = rng.random(2)
        low, high = (
            [float(np.clip(v + way * side / 2, 0, 1)) for v in (centre_y, centre_x)]
            for way in (-1, 1)
        )
        return Blend(box=(*low, *high))
    return Blend(share=float(rng.beta(mixup, mixup)) if mixup else 1.0)


def blended(
    images_NHWC: torch.Tensor, labels: torch.Tensor, blend: Blend
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float images and labels blended with those of the image before, in the batch."""
    others, other_labels = images_NHWC.roll(1, 0), labels.roll(1, 0)
    if blend.box is None:
        images, share = torch.lerp(others, images_NHWC, blend.share), blend.share
    else:
        inside_NHW = _inside(blend.box, images_NHWC)[None]
        images = torch.where(inside_NHW[..., None], others, images_NHWC)
        share = 1 - inside_NHW.float().mean()
    return images, torch.lerp(other_labels, labels, share)


def _inside(
    box: torch.Tensor | tuple[float, float, float, float], images_NHWC: torch.Tensor
) -> torch.Tensor:
    """Return which pixels have their centre in a rectangle: (..., S, S).

    ``box`` is its top, left, bottom and right, as shares of the side: a tensor of (4, ..., 1) on
    the device, or numbers, which need no copy to the device.
    """
    side = images_NHWC.shape[1]
    centres = (torch.arange(side, device=images_NHWC.device) + 0.5) / side
    top, left, bottom, right = box
    rows, columns = (
        (centres >= low) & (centres < high) for low, high in ((top, bottom), (left, right))
    )
    return rows[..., :, None] & columns[..., None, :]
