"""Checks that a configuration must pass before it is committed."""
