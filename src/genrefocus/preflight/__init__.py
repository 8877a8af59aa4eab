"""What would stop a run of train.py, or make it slow, found before it begins and without a GPU.

- ``files``       shards, photographs and weights, each a :class:`Finding`
- ``disk``        free space in all folders that are written to
- ``inputs``      what a run needs of them, by its configuration
- ``memory``      of training, and its time; ``tracking`` takes a step on shapes alone
- ``cluster``     what ends several processes: shared memory, time-outs, locks
- ``validation``  the share of the passes that validation takes
"""
