"""The allow-list for uploaded configurations (docs/policy.md). Pure."""
