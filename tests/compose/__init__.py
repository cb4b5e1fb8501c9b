"""The compose files as a stranger runs them, on a container engine: `make compose-test`."""
