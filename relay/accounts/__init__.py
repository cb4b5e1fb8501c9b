"""Accounts, senders, clients; which account a sender routes to; provider presets."""
