"""Links, addresses and routes of the kernel, by rtnetlink."""
