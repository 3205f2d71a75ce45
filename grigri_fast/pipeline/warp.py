"""Sampling the source image once, through its affine matrix, with OpenCV on the host.

Bilinear sampling, edge pixels repeated outside the image, and where the image shrinks, the average
of several points per output pixel (:func:`affine.taps`). ``decode`` does the same with DALI, on a
GPU; a test compares both with a computation in float64.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from . import affine

cv2.setNumThreads(1)  # the loader's own threads warp, an image each


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
