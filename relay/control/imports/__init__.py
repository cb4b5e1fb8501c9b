"""What other relays' configurations say, as a plan, and what carries the plan out."""
