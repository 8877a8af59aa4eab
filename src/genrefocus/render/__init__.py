"""Depth of field, rendered in linear light.

`layered` renders one image with disparity, separated at its depth edges (`edges`); `scatter` is the
classical renderer, a baseline. `lens` photographs a layered scene (`scene`) through a sampled
aperture, which is the ground truth. `apertures` has the shapes, and `tone` converts between linear
light and encoded images.
"""
