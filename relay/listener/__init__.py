"""The front door: sessions, access policy, DATA streaming, replies."""
