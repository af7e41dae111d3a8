"""Scores of attention maps: one number per image, from tensors, whatever model made them."""
