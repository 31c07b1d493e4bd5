"""The processes of the agent: made here, and kept alive here."""
