"""What the agent costs, measured beside what cannot cost less, in one run: `python -m benchmarks`.

Benchmarks show figures and judge none; tests judge behaviour.
"""
