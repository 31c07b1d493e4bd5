"""Keep processes alive. Only this package starts, signals or stops one."""
