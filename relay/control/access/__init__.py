"""Who may use the console and the API, and for what; decided here, in the daemon, never in the web process."""
