"""Instances: haproxy processes and the configuration that they run."""
