"""Clients of the API, as controllers and operators use them."""
