"""Pure values of the mail field: addresses, envelopes, replies, outcomes, ids, header surgery."""
