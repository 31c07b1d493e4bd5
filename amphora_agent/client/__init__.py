"""Clients of the API, for controllers and operators."""
