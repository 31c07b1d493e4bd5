"""The wanted state of the network, and the operations that lead there. Pure."""
