"""The daemon inside an Octavia load balancer VM (an amphora)."""

__version__ = "0.1.0"
