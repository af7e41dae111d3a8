"""Synthetic images whose discriminative parts are known."""
