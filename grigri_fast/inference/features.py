"""What a network's heads take in, of many images: computed once, and kept for the next time.

Shapes: V views of an image, N images, D features, C channels.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..models import fold, heads, normalize
from ..pipeline import image_file
from ..pipeline.check import DECODERS, ImageCheck
from ..pipeline.loader import ImageLoader
from ..runs.feature_cache import FeatureCache
from ..runtime import memory
from ..runtime.compute import Compute, autocast
from ..runtime.memory import Budget
from . import forward

View = Literal["whole", "mirror"]

_BATCH_SIZE = 32  # larger ones are not faster on a CPU (benchmarks/README.md)
_KEPT_EVERY = 2048  # images, so that a pass that was stopped goes on from there


@dataclass(frozen=True)
class Features:
    """The features of some rows' images.

    Attributes:
        features_VND: float16, on the host, in the order of the rows, without those that could not
            be read.
        dropped: by row, why a file could not be read.
    """

    features_VND: NDArray[np.float16]
    dropped: dict[int, str]


def compute_features(
    network: nn.Module,
    paths: Sequence[Path],
    checked: ImageCheck,
    rows: NDArray[np.intp],
    *,
    compute: Compute,
    budget: Budget,
    size_px: int,
    views: Sequence[View],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_slow: Callable[[str], None] = lambda text: None,
) -> Features:
    """Return the input of a network's heads for whole images, as evaluation shows them to it.

    What is known of an image, with the same weights, size and number format, is not computed again:
    it is kept in the user's cache (:class:`FeatureCache`). Where a head takes in places, a feature
    is the mean over them; those of several heads stand side by side.

    Args:
        network: on the device of ``compute``; it stays as it is.
        paths: image files; row i is ``paths[i]``.
        checked: what ``check_images`` returned for them.
        rows: the images that are asked for; all have been checked.
        compute: what to compute on, and how.
        budget: with a limit, as many images go through the network at once as it allows.
        size_px: side of the square that images are resized to.
        views: ``whole``, the image; ``mirror``, its mirror image.
        on_progress: called with images done and images in all.
        on_slow: called with a line that says what is waited for, if images do not come.

    Raises:
        GrigriError: if memory runs out, or not even one image fits within the limit.
    """
    cache = FeatureCache(_key(network, compute, size_px, views))
    identity_N = image_file.identities([paths[row] for row in rows], checked.crc32_N[rows])
    features_VND, is_known = cache.read(identity_N)
    missing, missing_identity = rows[~is_known], identity_N[~is_known]
    num_known = len(rows) - len(missing)
    on_progress(num_known, len(rows))
    if not len(missing) and features_VND is not None:
        return Features(features_VND, {})

    def show(before: int, done: int) -> None:
        on_progress(before + done, len(rows))

    dropped: dict[int, str] = {}
    features_of = _features_of(network, compute, size_px, views)
    with _open_loader(paths, checked, size_px, compute, on_slow) as loader:
        micro_batch_size = forward.micro_batch_of_evaluation(
            features_of, _BATCH_SIZE, size_px, budget
        )
        for first in range(0, len(missing), _KEPT_EVERY):
            part = slice(first, first + _KEPT_EVERY)
            outputs_NF, bad = forward.outputs(
                features_of,
                loader,
                missing[part],
                micro_batch_size=micro_batch_size,
                on_progress=functools.partial(show, num_known + first),
            )
            dropped |= bad
            if len(outputs_NF):
                is_new = ~np.isin(missing[part], list(bad))
                cache.add(missing_identity[part][is_new], _in_half(outputs_NF, len(views)))
    features_VND, is_known = cache.find(identity_N)
    if features_VND is None:
        return Features(np.empty((len(views), 0, 0), dtype=np.float16), dropped)
    # A file may have gone since it was read, or be bad while another has the content that it had.
    gone = rows[~is_known & ~np.isin(rows, list(dropped))]
    is_read = ~np.isin(rows[is_known], list(dropped))
    return Features(features_VND[:, is_read], dropped | dict.fromkeys(gone.tolist(), "it is gone"))


@contextlib.contextmanager
def _open_loader(
    paths: Sequence[Path],
    checked: ImageCheck,
    size_px: int,
    compute: Compute,
    on_slow: Callable[[str], None],
) -> Iterator[ImageLoader]:
    """Yield a loader of whole images, while memory that runs out is explained."""
    loader = ImageLoader(
        paths,
        checked,
        size_px=size_px,
        batch_size=_BATCH_SIZE,
        device=compute.device,
        threads=compute.threads,
        on_slow=on_slow,
    )
    with (
        memory.out_of_memory_explained("close other programs, or use --device cpu"),
        contextlib.closing(loader),
    ):
        yield loader


def _in_half(outputs_NF: NDArray[np.float32], num_views: int) -> NDArray[np.float16]:
    """Return features (V, N, D) in float16, those beyond it at its largest number."""
    largest = np.finfo(np.float16).max
    outputs_NVD = outputs_NF.reshape(len(outputs_NF), num_views, -1)
    return outputs_NVD.clip(-largest, largest).astype(np.float16).swapaxes(0, 1)


def _features_of(
    network: nn.Module, compute: Compute, size_px: int, views: Sequence[View]
) -> forward.Forward:
    """Return a function of uint8 images (N, size, size, 3) that returns features (N, V x D)."""
    model = fold.folded(network, size_px)
    if compute.device.type == "cpu":
        model = fold.in_format(model, compute.amp)
    pixels = normalize.preprocessing_of(model)

    @torch.inference_mode()
    def features_of(images_NHWC: torch.Tensor) -> torch.Tensor:
        inputs_NCHW = normalize.normalize(images_NHWC, pixels.mean, pixels.std)
        inputs_NCHW = inputs_NCHW.contiguous(memory_format=compute.memory_format)
        with heads.inputs_taken(model) as taken, autocast(compute.device, compute.amp):
            for view in views:
                model(inputs_NCHW if view == "whole" else inputs_NCHW.flip(3))
        return torch.cat(taken, 1)

    return features_of


def _key(network: nn.Module, compute: Compute, size_px: int, views: Sequence[View]) -> str:
    """Return what features depend on beside the image: a digest of network and settings.

    Of the layers too: networks that pad in another way have weights of the same names and shapes.
    """
    digest = hashlib.sha256()
    of_heads = {f"{name}." for name, _ in heads.heads(network)}
    for name, module in network.named_modules():
        if f"{name}." not in of_heads:
            layer = f"{name}: {type(module).__module__}.{type(module).__qualname__}"
            digest.update(f"{layer}({module.extra_repr()})\n".encode())
    for name, tensor in network.state_dict().items():
        if not any(name.startswith(head) for head in of_heads):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    pixels = normalize.preprocessing_of(network)
    settings = (pixels, compute.device.type, compute.amp, size_px, tuple(views), DECODERS)
    digest.update(repr(settings).encode())
    return digest.hexdigest()
