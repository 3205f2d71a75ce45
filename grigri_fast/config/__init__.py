"""The options of a training run, and the rules by which what is left open is filled in.

``options`` declares every option once; ``rules`` resolves a config and reads config files.
May import nothing but errors and runtime.
"""

from .data_options import LABEL_OPTIONS, MAX_PIXELS
from .options import AUTO, OPTIONS, TrainConfig
from .rules import RECIPES, read_toml, resolve

__all__ = [
    "AUTO",
    "LABEL_OPTIONS",
    "MAX_PIXELS",
    "OPTIONS",
    "RECIPES",
    "TrainConfig",
    "read_toml",
    "resolve",
]
