"""Paths and rows in, batches of uint8 images on the device out."""
