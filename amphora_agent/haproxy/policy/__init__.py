"""The allow-list for uploaded configurations and certificate files (docs/policy.md). Pure."""
