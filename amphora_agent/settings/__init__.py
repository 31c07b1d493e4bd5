"""The controller's INI file: its values, and which of them a push may change. Pure."""
