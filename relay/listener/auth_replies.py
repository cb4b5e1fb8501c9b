"""What the front door says about logins (RFC 4954 6)."""

from __future__ import annotations

from relay.listener.replies import Refusal
from relay.mail.reply import Reply

AUTHENTICATED = Reply(235, "2.7.0", "Authentication successful")
_MECHANISM = "the application's AUTH is broken: let it use PLAIN or LOGIN, or switch its login off"
FAILED = Refusal(
    535,
    "5.7.8",
    "Authentication credentials invalid",
    "give the application the login of its client entry: `relay client list` shows it, "
    "`relay client set NAME --password-file -` sets another password",
)
CANCELLED = Refusal(501, "5.7.0", "Authentication cancelled", _MECHANISM)
NOT_BASE64 = Refusal(501, "5.5.2", "the response is not base64, or not of this mechanism", _MECHANISM)
LINE_TOO_LONG = Refusal(500, "5.5.6", "the response is too long", _MECHANISM)
UNKNOWN_MECHANISM = Refusal(504, "5.5.4", "mechanism not offered; PLAIN and LOGIN are", _MECHANISM)
TLS_FIRST = Refusal(
    538,
    "5.7.11",
    "Encryption required for requested authentication mechanism: send STARTTLS first",
    "switch STARTTLS on in the application; or AUTH_WITHOUT_TLS=yes at this door: then passwords cross the network "
    "in clear text",
)
TOO_MANY = Refusal(
    421, "4.7.0", "too many failed logins, try again later", f"{FAILED.remedy}; it is let in again after 10 minutes"
)

# RFC 4954 4: no status in a challenge.
CHALLENGE = b"334 \r\n"
USERNAME = b"334 VXNlcm5hbWU6\r\n"
PASSWORD = b"334 UGFzc3dvcmQ6\r\n"
