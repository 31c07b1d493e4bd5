"""Files that a configuration names, and what they may contain. Pure."""
