"""What would stop a run of train.py, or make it slow, found before it begins and without a GPU.

- ``files``       shards, photographs, weights and disk, each a :class:`Finding`
- ``inputs``      what a run needs of them, by its configuration
- ``memory``      of training; ``activations`` counts what backward needs
- ``validation``  the share of the passes that validation takes
"""
