"""From image files to batches: paths and rows in, uint8 images on the device with their rows out.

Every file is checked first, in a process that may crash (``check``); then it is read, decoded by
DALI, warped and put into batches (``loader``). Labels never come here. May import ``models``.
"""
