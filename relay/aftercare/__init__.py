"""What is owed once a delivery is settled: notices, copies, alerts. Never resends mail."""
