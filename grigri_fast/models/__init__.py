"""A name and weights in, a network with its preprocessing and its head out."""
