"""The console: pages for administrators and mailbox owners, the REST API, health and metrics; a process of its own."""
