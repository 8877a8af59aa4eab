"""From images to shards: sources list items, routes make samples of them, the runner keeps count.

- ``item``, ``sources``        what a source lists; an adapter for each data set
- ``route``                    what a route is; the routes are ``in_the_wild``, ``aperture_series``,
                               ``deblur_pairs`` and ``rendered`` (of ``subjects``, by ``draws``)
- ``pairs``, ``gates``         measures of real pairs; what measures turn away
- ``thresholds``, ``review``   thresholds of gates from samples that a person has looked at
- ``fingerprints``, ``leakage``  images known by their content; one image on both sides of a border
- ``selection``, ``shard_plan``  the sharpest of a pool; which candidate makes part of which shard
- ``journal``, ``runner``      shards that any number of jobs and interruptions leave the same
- ``ledger``, ``report``, ``inspection``  what came of it: read and shown
"""
