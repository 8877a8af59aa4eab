"""The simulator: procedural scenes, a lens-sampled reference, renderers of one image.

`scenes` draws layered scenes from a seed (`textures`, `shapes`, `palettes` are its material) and
`night` dark ones with point lights; `lens` renders them through a sampled aperture (`apertures`,
`bokeh_shapes`): the truth. `layered` renders one image with disparity, separated at its depth edges
(`edges`), to which `lights` adds sources; `scatter` is the classical renderer, a floor. `camera`
writes simulated photographs with EXIF, and `tone` converts between linear light and encoded images.
Everything renders in linear light.
"""
