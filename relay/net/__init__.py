"""TLS contexts and dialling."""
