"""grigri-fast: fine-tune a multi-label image classifier fast, and learn how good it honestly is."""

__version__ = "0.1.0"
