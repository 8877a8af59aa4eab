"""The Hydra configuration of a run: composed, checked, and compared with what is there.

Beside the entry points this package, ``lit_models.stages`` and ``lit_models.evaluation`` are the
only places that read a configuration.
"""
