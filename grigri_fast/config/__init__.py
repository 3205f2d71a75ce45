"""The options of a training run, and the rules by which what is left open is filled in.

``options`` declares every option once; ``rules`` resolves a config and reads config files.
May import nothing but errors and runtime.
"""

from .options import AUTO, MAX_PIXELS, OPTIONS, TrainConfig
from .rules import RECIPES, read_toml, resolve

__all__ = ["AUTO", "MAX_PIXELS", "OPTIONS", "RECIPES", "TrainConfig", "read_toml", "resolve"]
