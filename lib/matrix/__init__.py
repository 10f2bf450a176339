"""The test matrix: every combination of the configured lists trained once, whatever dies, and a report of it.

`axes` says what is varied, `points` takes it through the front end, `source` and `plan` freeze code and cells, `cell`
is one unit of work and `verdict` how it ended, `engine` runs many, `status` shows them; `verbs` is what make calls.
"""
