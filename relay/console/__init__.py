"""Web console: reserved for a later release; nothing listens yet."""
