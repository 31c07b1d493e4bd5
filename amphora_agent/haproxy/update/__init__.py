"""From the difference of two configurations to what must be done. Pure."""
