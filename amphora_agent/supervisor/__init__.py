"""Who keeps a process alive, and the only place that starts, signals or stops one."""
