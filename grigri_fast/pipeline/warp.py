"""Sampling the source image once, through its affine matrix: on the host and on the device.

Both back-ends do the same: bilinear sampling, edge pixels repeated outside the image, and where the
image shrinks, the average of several points per output pixel (:func:`affine.taps`). Their results
differ by at most one level (a test compares them).

Shapes: N images, S = size_px. The device gets all images in one flat buffer of RGB pixels, image
after image, row by row.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from . import affine

cv2.setNumThreads(1)  # the loader's own threads warp, an image each

_PIXELS_AT_A_TIME = 2**19  # of the output, on the device: some 60 bytes of scratch memory each


def on_host(
    images: Sequence[NDArray[np.uint8]], matrices: NDArray[np.float32], out_NHWC: NDArray[np.uint8]
) -> None:
    """Fill ``out_NHWC`` (N, S, S, 3) with the images (HWC), warped by their matrices (N, 2, 3).

    By OpenCV 5, whose ``warpAffine`` does not round coordinates.
    """
    size = out_NHWC.shape[1]
    taps_N2 = affine.taps(matrices)
    cv_matrices = matrices.astype(np.float64)
    cv_matrices[:, :, :2] /= taps_N2[:, None, :]
    # OpenCV's coordinate (0, 0) is the centre of the first pixel, ours is its corner.
    cv_matrices[:, :, 2] += cv_matrices[:, :, :2].sum(2) / 2 - 0.5
    for image_HWC, cv_matrix, (taps_x, taps_y), out_HWC in zip(
        images, cv_matrices, taps_N2.tolist(), out_NHWC, strict=True
    ):
        # With a fourth channel OpenCV warps twice as fast as with three, to the same values.
        source = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2RGBA)
        warped = cv2.warpAffine(
            source,
            cv_matrix,
            (size * taps_x, size * taps_y),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        if (taps_x, taps_y) != (1, 1):
            warped = cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA)
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out_HWC)


def on_device(
    pixels_P3: torch.Tensor,
    firsts_N: torch.Tensor,
    sizes_HW: torch.Tensor,
    matrices: torch.Tensor,
    taps: NDArray[np.int64],
    size_px: int,
) -> torch.Tensor:
    """Return the warped images, uint8 (N, S, S, 3) on the device of ``pixels_P3``.

    Args:
        pixels_P3: uint8 RGB pixels of many images.
        firsts_N: int64, where in them each image begins.
        sizes_HW: int64 (N, 2), the images' sizes.
        matrices: float32 (N, 2, 3).
        taps: of the matrices (N, 2), on the host, where they decide how many passes there are.
        size_px: side of the output.
    """
    most = max(1, _PIXELS_AT_A_TIME // size_px**2)
    if len(matrices) > most:
        parts = [
            on_device(pixels_P3, firsts_N[c], sizes_HW[c], matrices[c], taps[c], size_px)
            for c in (slice(i, i + most) for i in range(0, len(matrices), most))
        ]
        return torch.cat(parts)
    device = pixels_P3.device
    taps_N2 = torch.from_numpy(taps).to(device, non_blocking=True)
    steps = torch.arange(size_px, dtype=torch.float32, device=device)
    last_y, last_x = (sizes_HW[:, i, None, None] - 1 for i in (0, 1))
    sum_NHWC = torch.zeros(len(matrices), size_px, size_px, 3, device=device)
    most_x, most_y = taps.max(0).tolist()
    for tap_x in range(most_x):
        for tap_y in range(most_y):
            taps_x, taps_y = (taps_N2[:, i, None, None] for i in (0, 1))
            out_x = steps[None, None, :] + (tap_x + 0.5) / taps_x
            out_y = steps[None, :, None] + (tap_y + 0.5) / taps_y
            src_x, src_y = (
                matrices[:, i, 0, None, None] * out_x
                + matrices[:, i, 1, None, None] * out_y
                + (matrices[:, i, 2, None, None] - 0.5)
                for i in (0, 1)
            )
            x, y = src_x.floor(), src_y.floor()
            right, down = (src_x - x)[..., None], (src_y - y)[..., None]
            x, y = x.long(), y.long()
            xs = [torch.minimum(v.clamp(min=0), last_x) for v in (x, x + 1)]
            rows = [
                firsts_N[:, None, None] + torch.minimum(v.clamp(min=0), last_y) * (last_x + 1)
                for v in (y, y + 1)
            ]
            upper, lower = (
                torch.lerp(pixels_P3[row + xs[0]].float(), pixels_P3[row + xs[1]].float(), right)
                for row in rows
            )
            sampled_NHWC = torch.lerp(upper, lower, down)
            if most_x * most_y > 1:  # not all images have so many taps
                has_tap = (tap_x < taps_x) & (tap_y < taps_y)
                sampled_NHWC = sampled_NHWC * (has_tap / (taps_x * taps_y))[..., None]
            sum_NHWC += sampled_NHWC
    return sum_NHWC.round_().to(torch.uint8)
