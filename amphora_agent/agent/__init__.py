"""The agent itself: its certificate, its settings, who may call it, the machine it runs on."""
