"""The one exception for what a user can fix, and the one for a signal that ends the program."""

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


class UsageError(GrigriError):
    """Options that do not go with each other; the command line exits with code 2."""


class Interrupted(BaseException):
    """A signal ended the program; the command line exits with 128 + its number.

    Not an Exception, as KeyboardInterrupt is none: nobody catches it by accident.

    Attributes:
        signum: the signal's number.
        advice: how to go on, or "".
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum, advice)
        self.signum, self.advice = signum, advice


class BetweenStepsError(GrigriError):
    """Training cannot go on, but its state is that after a step, and is worth storing."""


class DivergedError(GrigriError):
    """Loss, gradients or scores are no longer finite; the same run would end the same way.

    Attributes:
        where: what is no longer finite, and in which step of which epoch.
    """

    def __init__(self, where: str, advice: str = "") -> None:
        super().__init__(f"{where}; {advice}" if advice else where)
        self.where = " ".join(where.split())
