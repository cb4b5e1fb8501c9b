"""The back door: hands messages to an upstream and reports what happened; decides nothing."""
