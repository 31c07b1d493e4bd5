"""Octavia's objects in haproxy's and keepalived's terms, and back. Pure."""
