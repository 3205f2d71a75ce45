"""Many runs: a search for better options, and the experiments of the report of 2020.

A data set and options come in; a folder of run folders goes out, with the best options of the
search or with pages that compare. May import all but curation, profiling, serving and cli.
"""
