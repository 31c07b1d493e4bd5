"""Octavia's objects as frozen types, and the one way in from untrusted JSON."""
