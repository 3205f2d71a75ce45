"""Which network, at which size, where the user has not said."""

from dataclasses import dataclass
from pathlib import Path

from . import hub, timm_networks, weights

AUTO = "auto"  # what --arch is where it is not given

# The owner's choice for a GPU: ResNet34 at 224 px.
ON_GPU = "resnet34"
# On a CPU: of EfficientNet-Lite0, 1 and 2 the one with the best linear probe (mAP; Lite1 is next,
# at four fifths of the time), and the only one measured fine-tuned (benchmarks/README.md).
ON_CPU = "timm/tf_efficientnet_lite2"
# Without weights on a CPU: ours, which learns fast from scratch.
ON_CPU_FROM_SCRATCH = "grigri"

_SIZE_PX = 224  # of torchvision's networks
_SIZES_PX = {"grigri": 128, "simple": 128}  # the side of the report's photographs


@dataclass(frozen=True)
class Choice:
    """A network and its size.

    Attributes:
        arch: architecture name.
        size_px: side of the input.
        why: one line about what was chosen here, and how to choose otherwise; "" if nothing was.
    """

    arch: str
    size_px: int
    why: str = ""


def choose(arch: str, size_px: int | None, weights_from: str, device_type: str) -> Choice:
    """Return the network and the size to train at.

    Args:
        arch: a name, which is kept, or ``auto``: the network that the weights say they are of;
            else what suits the device.
        size_px: a size, which is kept; None for that of a folder's images, or the network's own.
        weights_from: ``imagenet``, ``none``, a file or a folder.
        device_type: ``cuda`` or ``cpu``.

    Raises:
        GrigriError: for ``auto`` with a file that does not say of which network it is, for a folder
            that holds another network, and for an unknown name.
    """
    place = Path(weights_from)
    if weights_from not in ("imagenet", "none") and place.is_dir():
        return _of_folder(arch, size_px, hub.read(place))
    if arch != AUTO:
        if size_px is not None:
            return Choice(arch, size_px)
        own_px = own_size(arch)
        return Choice(arch, own_px, f"{arch} at {own_px} px, its own size (--size chooses another)")
    if weights_from not in ("imagenet", "none"):
        header = weights.require_header(place)
        arch = header["arch"]
        own_px = size_px or header.get("built_px") or header["size_px"]
        return Choice(arch, own_px, f"{arch} at {own_px} px, as {place} says")
    if device_type == "cuda":
        arch, reason = ON_GPU, "what is meant for a GPU"
    elif weights_from == "none":
        arch, reason = ON_CPU_FROM_SCRATCH, "what learns fast from scratch on a CPU"
    else:
        arch, reason = ON_CPU, "what scored best on a CPU"
    own_px = size_px or own_size(arch)
    return Choice(arch, own_px, f"{arch} at {own_px} px: {reason} (--arch and --size choose)")


def _of_folder(arch: str, size_px: int | None, folder: hub.HubFolder) -> Choice:
    """Return the network and the size that a folder names, where they are not given."""
    if arch != AUTO:
        folder.require(arch)
        if size_px is not None:
            return Choice(arch, size_px)
    arch = folder.arch if arch == AUTO else arch
    if size_px is None:
        size_px = folder.size_px or own_size(arch)
    return Choice(arch, size_px, f"{arch} at {size_px} px, as {folder.path} says")


def own_size(arch: str) -> int:
    """Return the side of the images that a network is meant for."""
    if timm_networks.is_timm(arch):
        return timm_networks.own_size(arch)
    return _SIZES_PX.get(arch, _SIZE_PX)
