"""What the controller believes about this amphora: the heartbeat (WIRE §6)."""
