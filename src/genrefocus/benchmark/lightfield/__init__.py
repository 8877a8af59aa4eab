"""Light fields become cases of bokeh and refocus: images of one moment, focused after the fact.

- ``field``      a grid of views, and the units that tie it to K
- ``reading``    folders of views, ESLF images, arrays
- ``depth``      disparity of the central view
- ``refocusing`` photographs through a synthetic aperture
- ``simulated``  light fields of procedural scenes, whose truth is known
- ``pairs``      what is drawn of a light field: two photographs, two samples
- ``building``   the sets ``lf_bokeh`` and ``lf_refocus``
"""

from genrefocus.benchmark.lightfield.building import build_lightfields as build_lightfields
from genrefocus.benchmark.lightfield.depth import estimate_disparity as estimate_disparity
from genrefocus.benchmark.lightfield.field import LightField as LightField
from genrefocus.benchmark.lightfield.reading import open_light_field as open_light_field
from genrefocus.benchmark.lightfield.refocusing import refocus as refocus
