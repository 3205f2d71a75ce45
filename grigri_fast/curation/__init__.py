"""A data set in, what is wrong with its images and labels out."""
