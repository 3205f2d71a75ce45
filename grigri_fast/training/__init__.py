"""Options in, a run folder out: the training loop and all that it is made of.

:func:`trainer.train` takes the options of a run, a TOML file of them or a run to go on with, and
leaves a run folder: config, split, a row of scores per epoch, checkpoints, and a state to resume.
``trainer`` is read first: ``session``, ``run_data``, ``autobatch``, ``compilation`` and ``setup``
make what it needs; ``step``, ``optim``, ``losses``, ``augment`` and ``sampler`` are what it does;
``checkpointer``, ``resume`` and ``quarantine`` are what stays.

May import config, models, data, pipeline, runs, inference, evaluation and reporting.
"""
