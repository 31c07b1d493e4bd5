"""Plugging: the amphora's network namespace and the interfaces in it.

Pure: `interface` (what an interface must have), `diff` (what must be done for that), `rtnetlink`
(the kernel's messages as values). With effects: `netns` (the namespace itself), `netlink` (the
kernel), `record` (the disk). Services: `reconcile` makes one interface what it must be, `plug`
answers the controller.
"""
