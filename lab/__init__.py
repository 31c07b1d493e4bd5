"""A laboratory on one machine: certificates, networks, web servers, clients and agents.

Used by the demo, the tests and the benchmarks; not part of the installed package. Everything here
is made of network namespaces and ordinary processes, so that what runs is the real kernel, the
real haproxy and the real agent.
"""
