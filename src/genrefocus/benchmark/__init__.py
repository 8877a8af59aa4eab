"""The benchmark: cases of a data set, methods that answer them, rows of figures, and what they say.

`case` is one picture of a task, with what is known about it; `rows` the figures of one picture, and
their file; `protocol` everything that figures depend on besides the method. `results` is a folder
of these, `statistics` means with intervals and paired comparisons, `published` the paper's figures,
`tables` and `report` what a person reads. Nothing here knows a network: a method is any callable on
a case.
"""
