"""Changes and alarms as values."""
