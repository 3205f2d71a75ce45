"""``python -m grigri_fast`` is the ``grigri-fast`` command."""

from .cli.main import entry

if __name__ == "__main__":
    entry()
