"""haproxy's replies as values. Pure."""
