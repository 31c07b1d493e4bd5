"""Figures for Prometheus: a load balancer's for its owner, the agent's own for its operator."""
