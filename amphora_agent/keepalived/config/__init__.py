"""keepalived's configuration language: read, held against a table, and written anew."""
