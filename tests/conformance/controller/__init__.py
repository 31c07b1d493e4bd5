"""The controller's side of the tests: Octavia's own code and as little as possible around it.

Octavia's amphora driver, its HTTP client, its templates, its local certificate manager, its
settings and its heartbeat receiver are used as they are. What is stood in for is the database,
in `database`; everything else in this package only says things in fewer words.
"""
