"""Values, texts and files of the agent that tests begin with.

`bodies` builds bodies of API 2.0, `lab/listeners.py` the configurations of API 1.0.
"""
