"""Sealing, key ring, vault, SASL: the only room that sees a secret in clear."""
