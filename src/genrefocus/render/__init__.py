"""The simulator: procedural scenes, a lens-sampled reference, renderers of one image.

`scenes` draws layered scenes from a seed (`textures`, `shapes`, `palettes` are its material) and
`night` dark ones with point lights; `lens` renders them through a sampled aperture (`apertures`,
`bokeh_shapes`), `scatter` blurs a single image with disparity, to which `lights` adds sources;
`camera` writes simulated photographs with EXIF, and `tone` converts between linear light and
sRGB. Everything renders in linear light.
`lens` renders them through a sampled aperture (`apertures`): the truth. `layered` renders one image
with disparity, separated at its depth edges (`edges`); `scatter` is the classical renderer, a
floor. `camera` writes simulated photographs with EXIF, and `tone` converts between linear light
and encoded images. Everything renders in linear light.
"""
