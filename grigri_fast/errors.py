"""The one exception for what a user can fix."""


class GrigriError(Exception):
    """What is wrong, where, and what to do, in one line.

    The command line prints it on stderr and exits with code 1. Everything else that is raised is
    a bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
