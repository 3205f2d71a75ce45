"""Speed and memory, measured: bench and profile.

Images, options and a machine come in; images per second beside torchvision's go out, or what the
bytes and the seconds of a step are for. May import config, data, pipeline, inference, models,
reporting, runs and training.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch reads it when it is imported
