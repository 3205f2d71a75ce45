"""Features of images, kept in the user's cache, so that no network computes them twice.

Shapes: V views of an image, N images that are asked for, M images in the file, D features.
"""

import contextlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import files
from . import sealed_file

FORMAT = "grigri-fast features 1"
_MAX_BYTES = 4 * 2**30  # of all files; the ones that were not used for longest go


class FeatureCache:
    """The features that one network gives to images, as one file.

    A file that is damaged, or cannot be written, is as good as none: nothing here raises.

    Args:
        key: what the features depend on beside the image, as a file name.
    """

    def __init__(self, key: str) -> None:
        self._file = files.cache_folder() / "features" / f"{key}.safetensors"
        self._identity_M = np.empty(0, np.int64)
        self._features_VMD: NDArray[np.float16] | None = None

    def read(
        self, identity_N: NDArray[np.int64]
    ) -> tuple[NDArray[np.float16] | None, NDArray[np.bool_]]:
        """Read the file; return what :meth:`find` does."""
        with contextlib.suppress(GrigriError, KeyError):
            tensors, _ = sealed_file.read(self._file, FORMAT)
            self._identity_M = tensors["identities"].numpy()
            self._features_VMD = tensors["features"].numpy()
            self._file.touch()  # it was used
        return self.find(identity_N)

    def find(
        self, identity_N: NDArray[np.int64]
    ) -> tuple[NDArray[np.float16] | None, NDArray[np.bool_]]:
        """Return features (V, known ones, D) of those images that have some, and which these are.

        ``None`` where nothing was read or added.
        """
        if self._features_VMD is None:
            return None, np.zeros(len(identity_N), dtype=bool)
        order_M = np.argsort(self._identity_M)
        place_N = np.searchsorted(self._identity_M, identity_N, sorter=order_M)
        found_N = order_M[place_N.clip(max=len(order_M) - 1)]
        is_known_N = (self._identity_M[found_N] == identity_N) & (identity_N >= 0)
        return self._features_VMD[:, found_N[is_known_N]], is_known_N

    def add(self, identity_N: NDArray[np.int64], features_VND: NDArray[np.float16]) -> None:
        """Keep the features of more images, beside those that were read or added before."""
        is_new_N = identity_N >= 0
        identity_M = np.concatenate([self._identity_M, identity_N[is_new_N]])
        parts = [features_VND[:, is_new_N]]
        if self._features_VMD is not None:
            parts.insert(0, self._features_VMD)
        # The same content twice counts once.
        self._identity_M, first = np.unique(identity_M, return_index=True)
        self._features_VMD = np.concatenate(parts, axis=1)[:, first]
        if self._features_VMD.nbytes > _MAX_BYTES or not len(first):
            return
        tensors = {
            "identities": torch.from_numpy(self._identity_M),
            "features": torch.from_numpy(self._features_VMD),
        }
        with contextlib.suppress(GrigriError, OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            sealed_file.write(self._file, tensors, {}, FORMAT)
            _remove_oldest(self._file.parent)


def _remove_oldest(folder: Path) -> None:
    """Remove the files that were not used for longest, until the rest is within the limit."""
    kept_bytes = 0
    by_use = sorted(
        ((f.stat(), f) for f in folder.glob("*.safetensors")), key=lambda x: -x[0].st_mtime
    )
    for stat, file in by_use:
        kept_bytes += stat.st_size
        if kept_bytes > _MAX_BYTES:
            file.unlink(missing_ok=True)
