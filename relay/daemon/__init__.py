"""Builds every part, runs and supervises them, ends them in order."""
