"""Training data: samples, shards, their global order and batches.

- ``sample``    the schema of one sample and its codec
- ``shards``    WebDataset tars with an index: written reproducibly, read at random
- ``order``     which sample is drawn when, a pure function of (seed, n)
- ``buckets``   crops of several shapes
- ``batches``   which draws form which batch, on which rank
- ``images``    image files, upright
- ``processes`` work on numbered items in several processes
"""
