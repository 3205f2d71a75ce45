"""A run and images in, probabilities or an exported file out."""
