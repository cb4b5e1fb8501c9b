"""Typed settings, one frozen section per room, checked once at start."""
