"""What load balancers were and are: contents by digest, revisions that name them, live files."""
