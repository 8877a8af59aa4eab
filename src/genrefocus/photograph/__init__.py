"""Photographs from their files.

- ``decoding``  encoded images to Pillow images: the one place that opens photographs
- ``colours``   an opened image to upright sRGB
- ``exif``      exposure facts, or a named reason why there are none
- ``sensors``   widths of sensors, from EXIF and from tables of cameras
"""
