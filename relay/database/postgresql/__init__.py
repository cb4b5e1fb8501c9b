"""The store in PostgreSQL. Loaded only where RELAY_DATABASE__URL names one: the driver costs memory."""
