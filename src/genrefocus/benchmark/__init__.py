"""The benchmark: cases of a data set, methods that answer them, rows of figures, and what they say.

`case` is one image of a task, `cases` sets of them, `lightfield` makes the sets of two tasks from
light fields; `methods` are those without a network, and `runner` measures any callable on cases.
`rows` are the figures of one image and their file, `protocol` everything that figures depend on
besides the method. `results` is a folder of these, `statistics` means with intervals and paired
comparisons, `published` the paper's figures, `tables` and `report` what a person reads; `ablation`
reads a sweep. Nothing here knows a network.
"""
