"""Files and labels in, a data set and its split out."""
