"""What happened to the amphora, and what its operator must know of."""
