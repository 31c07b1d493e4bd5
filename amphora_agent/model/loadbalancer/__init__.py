"""Octavia's load balancer as types, and the rules that hold between its fields."""
