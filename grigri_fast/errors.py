"""The one exception for what a user can fix."""

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class GrigriError(Exception):
    """What is wrong, where, and what to do, in one line.

    The command line prints it on stderr and exits with code 1. Everything else that is raised is
    a bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # Other libraries' messages come with line breaks and colours.
        super().__init__(" ".join(_COLOURS.sub("", message).split()))
