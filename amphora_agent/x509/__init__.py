"""PEM, DER and X.509: reading and judging certificates. Pure."""
