"""Providers' HTTP APIs as transports: Microsoft Graph and the Gmail API."""
