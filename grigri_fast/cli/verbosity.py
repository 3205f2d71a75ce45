"""How much the command line says: set once, by ``--quiet`` and ``--verbose``, before a command."""

quiet = False  # only errors and results
verbose = False  # also when, and where an error came from
