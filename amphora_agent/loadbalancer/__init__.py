"""Load balancers as Octavia models them, and what haproxy and keepalived must be told for it."""
