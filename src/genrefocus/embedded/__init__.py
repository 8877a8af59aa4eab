"""The simulated data that come with the project, made from seeds on first use.

- ``sets``           everything that the scheme trains on by default
- ``words``          signs out of focus, whose captions say what they say
- ``aperture_roll``  aperture series of the simulated camera, laid out as RealBokeh_3MP is
- ``files``          folders of numbered files that are whole or not there
"""

from genrefocus.embedded.aperture_roll import ApertureRoll as ApertureRoll
from genrefocus.embedded.sets import build_embedded as build_embedded
from genrefocus.embedded.words import build_words as build_words
