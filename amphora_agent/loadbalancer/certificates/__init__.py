"""Certificates that a load balancer of API 2.0 refers to."""
