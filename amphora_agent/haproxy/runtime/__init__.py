"""Speaking to a running haproxy."""
