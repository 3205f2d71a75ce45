"""The run folder: config, split, manifest, history and checkpoints."""
