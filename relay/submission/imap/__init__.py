"""Mailboxes over IMAP (RFC 9051, RFC 3501): opening, folders. `opening.open_mailbox` is the way in."""
