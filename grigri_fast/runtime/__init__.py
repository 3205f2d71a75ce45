"""What the program stands on: files, devices, memory, processes and signals."""
