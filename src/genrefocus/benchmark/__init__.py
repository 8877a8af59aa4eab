"""The benchmark: cases of a data set, methods that answer them, rows of figures, and what they say.

`case` is one picture of a task, with what is known about it; `rows` the figures of one picture, and
their file; `lightfield` makes the sets of two tasks from light fields. Nothing here knows a
network: a method is any callable on a case.
"""
