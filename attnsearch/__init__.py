"""Hyper-parameter search for interpretable fine-grained image classifiers."""

__version__ = "0.1.0"
