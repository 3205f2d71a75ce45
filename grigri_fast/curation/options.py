"""The options of ``data check`` that need others, and the libraries. Loads nothing heavy."""

import importlib
from typing import Any

from ..errors import GrigriError, UsageError

# What only the deep check uses.
_DEEP = ("run", "folds", "epochs", "size", "split", "distance", "out")
# What only the training of --folds uses.
_FOLDS = ("epochs", "size")


def require_used(*, deep: bool, **options: Any) -> None:
    """Require that no option of :func:`check.check` would be ignored.

    Args:
        deep: whether the deep check runs.
        options: all others by name, ``None`` where one is not given; the first that is wrong, in
            this order, is named.

    Raises:
        UsageError: if an option would be ignored, or there are too few folds.
    """
    folds = options.get("folds")
    if folds is not None and folds < 2:
        raise UsageError(f"--folds must be at least 2, not {folds}")
    given = [name for name in options if name in _DEEP and options[name] is not None]
    for name in given:
        if not deep:
            raise UsageError(f"--{name} goes with --deep")
        if name in _FOLDS and "folds" not in given:
            raise UsageError(f"--{name} goes with --folds")
    if "run" in given and "folds" in given:
        raise UsageError("--run and --folds are two ways to the same; leave one out")
    if "run" in given and "split" in given:
        raise UsageError("--run has its own split; leave --split out")


def require_libraries(label_errors: bool) -> None:
    """Require the libraries of the extra ``clean``.

    Args:
        label_errors: whether label errors are searched for, which needs cleanlab.

    Raises:
        GrigriError: if one is not installed.
    """
    for name in ("imagehash", "cleanlab") if label_errors else ("imagehash",):
        try:
            importlib.import_module(name)
        except ImportError as e:
            raise GrigriError(
                f"--deep needs {e.name}: pip install 'grigri-fast[clean]' (ImageHash and cleanlab)"
            ) from e
