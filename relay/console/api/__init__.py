"""The REST API: the same actions as the command line, over HTTP."""
