"""Data sets in their layouts on disk -> items; see ``docs/sources.md``.

`conf/groups/source.yaml` names all of them; sets of pairs in two folders are declared there alone.
`listing` is what sources share, `paired` sets of pairs, `realbokeh` RealBokeh_3MP, `focal_stacks`
folders of frames that differ in focus, `photographs` single images, `several` more than one source,
`table` parquet files, `exposure` which EXIF facts are passed on, `numbered` scenes that are made
from seeds, `captions` what images of any source show, in words.
"""

from genrefocus.preparation.sources.captions import (
    CaptionedSource,
    Captions,
    CaptionTable,
    SidecarCaptions,
)
from genrefocus.preparation.sources.focal_stacks import FocalStacks
from genrefocus.preparation.sources.numbered import procedural_scenes
from genrefocus.preparation.sources.paired import Lfdof, Pairs
from genrefocus.preparation.sources.photographs import DevelopedRaw, Folder, Photographs
from genrefocus.preparation.sources.realbokeh import RealBokeh3mp
from genrefocus.preparation.sources.several import CombinedSource
from genrefocus.preparation.sources.table import PhotographTable

__all__ = [
    "CaptionTable",
    "CaptionedSource",
    "Captions",
    "DevelopedRaw",
    "FocalStacks",
    "Folder",
    "Lfdof",
    "Pairs",
    "PhotographTable",
    "Photographs",
    "RealBokeh3mp",
    "CombinedSource",
    "SidecarCaptions",
    "procedural_scenes",
]
