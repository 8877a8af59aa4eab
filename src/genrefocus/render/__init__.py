"""The simulator: procedural layered scenes, a lens-sampled reference renderer, a classical one.

`scenes` draws layered scenes from a seed (`textures`, `shapes`, `palettes` are its material),
`lens` renders them through a sampled aperture (`apertures`), `scatter` blurs a single image with
disparity, `camera` writes simulated photographs with EXIF, and `tone` converts between linear
light and sRGB. Everything renders in linear light.
"""
