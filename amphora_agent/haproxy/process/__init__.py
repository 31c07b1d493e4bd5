"""haproxy's processes: started, changed, reloaded, replaced."""
