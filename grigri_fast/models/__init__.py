"""The name of an architecture and weights in, a network with its head and normalisation out.

Networks know nothing of data. May import nothing but errors and runtime.
"""
