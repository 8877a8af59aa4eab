"""Photographs from their files.

- ``decoding``  encoded images to Pillow images: the one place that opens photographs
- ``colours``   an opened image to upright sRGB
- ``profiles``  ICC profiles of curves and a matrix, at any depth
- ``carried``   EXIF and profile that results carry on
- ``encoding``  results to files
- ``exif``      exposure facts, or a named reason why there are none
- ``sensors``   widths of sensors, from EXIF and from tables of cameras
"""
