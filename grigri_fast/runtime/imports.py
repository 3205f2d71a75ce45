"""Imports of large libraries, without the searches for garbage that they set off.

PyTorch and torchvision make hundreds of thousands of objects that stay for good. Python's garbage
collector walks over all of them several times while they are made, and again in every full
collection afterwards: a fifth of the processor time until ``predict`` has labelled ten photographs
(benchmarks/README.md, log). Only libraries that no command can do without are imported at the top
of a module; torchvision, timm, matplotlib, scikit-multilearn and SciPy are where they are used.
"""

import contextlib
import gc
from collections.abc import Iterator

_is_ours = False


def own_process() -> None:
    """Say that this process is the program ``grigri-fast``, and nobody else's objects are in it."""
    global _is_ours
    _is_ours = True


@contextlib.contextmanager
def heavy() -> Iterator[None]:
    """Within it nothing looks for garbage; what is there at its end is never looked at again.

    It does so in a process of our own alone: in another program the objects that are set aside
    would be that program's, too, and their memory might never be freed.

    Where one is within another, or the collector is switched off already, it does nothing.
    """
    if not (_is_ours and gc.isenabled()):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
