"""Imports of large libraries, without the searches for garbage that they set off.

PyTorch and torchvision make hundreds of thousands of objects that stay for good. Python's garbage
collector walks over all of them several times while they are made, and again in every full
collection afterwards: a fifth of the processor time until ``predict`` has labelled ten photographs
(benchmarks/README.md, log). Only libraries that no command can do without are imported at the top
of a module; torchvision, timm, matplotlib, scikit-multilearn and SciPy are where they are used.
"""

import contextlib
import gc
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

_COMPILER = "torch._dynamo.utils"

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


def torchvision() -> Any:
    """Return torchvision, imported without PyTorch's compiler.

    Its operator RoIAlign, which no network for classification has, asks that compiler for one
    function when it is imported: two seconds of processor time out of 2.2 (PyTorch 2.15,
    torchvision 0.29). Here it gets the function without what the function needs; that is imported
    with the first call.
    """
    if "torchvision" not in sys.modules and _COMPILER not in sys.modules:
        sys.modules[_COMPILER] = _Later(_COMPILER)
    try:
        with heavy():
            return importlib.import_module("torchvision")
    finally:
        _forget()


class _Later(types.ModuleType):
    """A module that has one function, and becomes the real one if anything else is asked of it."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """Return what the real function does."""
        return importlib.import_module(_COMPILER).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _forget()
        return getattr(importlib.import_module(_COMPILER), name)


def _forget() -> None:
    if isinstance(sys.modules.get(_COMPILER), _Later):
        del sys.modules[_COMPILER]
