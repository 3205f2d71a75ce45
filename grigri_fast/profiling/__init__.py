"""Speed and memory, measured: bench and profile.

In come images, options and a machine; out come images per second beside torchvision's, and what
the bytes and the seconds of a step are for. May import everything but curation, experiments and
cli.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch reads it when it is imported
