"""The command line: words in, lines and an exit code out.

Each command is a function that parses, calls one function of another folder with the same options,
and shows what comes back. ``main`` is the program: all commands, and the one place where errors
become a line. Nothing heavy is imported before a command runs. May import every other folder.
"""
