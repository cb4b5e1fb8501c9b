"""What the front door says about logins (RFC 4954 6)."""

from __future__ import annotations

from relay.mail.reply import Reply

AUTHENTICATED = Reply(235, "2.7.0", "Authentication successful")
FAILED = Reply(535, "5.7.8", "Authentication credentials invalid")
CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
NOT_BASE64 = Reply(501, "5.5.2", "the response is not base64, or not of this mechanism")
LINE_TOO_LONG = Reply(500, "5.5.6", "the response is too long")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "mechanism not offered; PLAIN and LOGIN are")
TLS_FIRST = Reply(538, "5.7.11", "Encryption required for requested authentication mechanism: send STARTTLS first")
TOO_MANY = Reply(421, "4.7.0", "too many failed logins, try again later")

# RFC 4954 4: no status in a challenge.
CHALLENGE = b"334 \r\n"
USERNAME = b"334 VXNlcm5hbWU6\r\n"
PASSWORD = b"334 UGFzc3dvcmQ6\r\n"
