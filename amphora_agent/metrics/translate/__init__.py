"""Figures of haproxy and IPVS as metrics by Octavia's names. Pure."""
