"""``python -m grigri_fast`` is the ``grigri-fast`` command."""

from .cli import entry

if __name__ == "__main__":
    entry()
