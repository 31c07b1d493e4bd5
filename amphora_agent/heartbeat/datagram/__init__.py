"""The content of a heartbeat, and its form. Pure."""
