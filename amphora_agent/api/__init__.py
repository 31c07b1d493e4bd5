"""The HTTP entrance: requests in, answers out. No decisions."""
