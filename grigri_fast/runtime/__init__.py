"""What the program stands on: files, devices, memory, processes, threads and signals.

Every folder may import it; it imports nothing of the package but errors.
"""

from . import cpu_share as cpu_share  # looks at the CPUs from now on, while PyTorch is imported
