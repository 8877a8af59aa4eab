"""The simulated world: procedural scenes and cameras, which the embedded data are made of.

`scenes` draws layered scenes from a seed (`textures`, `shapes`, `palettes` and `fields` are their
material), `night` dark ones with point lights; `lights` adds point lights to any image with
disparity. `camera` writes simulated photographs with EXIF, and `estimates` simulates
the errors of estimators. `pretext` has the generic tasks that the tiny base is trained on.
"""
