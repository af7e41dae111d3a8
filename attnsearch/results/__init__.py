"""Reads a results folder: studies, trials, their files and models."""
