"""A local SMTP relay that submits each sender's mail upstream with that sender's own credentials."""

__version__ = "0.1.0"
