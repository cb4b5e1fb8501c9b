"""Relay and Postfix side by side: same load, same upstream, same machine, one run (`python -m benchmarks`)."""
