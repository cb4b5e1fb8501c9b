"""Operator actions, one audited function each; command line and console only call these."""
