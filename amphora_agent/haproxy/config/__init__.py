"""haproxy's configuration language. Pure."""
