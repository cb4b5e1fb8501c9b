"""SMTP submission (RFC 6409): opening, dialogue, pool by account identity. `transport.SmtpTransport` is the way in."""
