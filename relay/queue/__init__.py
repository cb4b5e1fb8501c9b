"""Messages and deliveries we owe, made durable: model, store, spool, recovery."""
