"""One adapter for each data set: its layout on disk -> items; see ``docs/sources.md``.

`listing` is what they share, `paired` sets of pairs, `aperture_series` RealBokeh_3MP, `photographs`
single pictures, `several` more than one source, `table` parquet files, `exposure` which EXIF facts
are passed on.
"""

from collections.abc import Mapping
from types import MappingProxyType

from genrefocus.preparation.sources.aperture_series import RealBokeh3mp
from genrefocus.preparation.sources.listing import Listed
from genrefocus.preparation.sources.paired import Dpdd, Ebb, Lfdof, Pairs, RealDof
from genrefocus.preparation.sources.photographs import DevelopedRaw, Folder, Photographs
from genrefocus.preparation.sources.several import Several
from genrefocus.preparation.sources.table import PhotographTable

__all__ = [
    "SOURCES",
    "DevelopedRaw",
    "Dpdd",
    "Ebb",
    "Folder",
    "Lfdof",
    "Pairs",
    "PhotographTable",
    "Photographs",
    "RealBokeh3mp",
    "RealDof",
    "Several",
]

SOURCES: Mapping[str, type[Listed]] = MappingProxyType(
    {
        "dpdd": Dpdd,
        "realdof": RealDof,
        "realbokeh_3mp": RealBokeh3mp,
        "lfdof": Lfdof,
        "ebb": Ebb,
        "photographs": Photographs,
        "photograph_table": PhotographTable,
        "developed_raw": DevelopedRaw,
        "folder": Folder,
        "pairs": Pairs,
    }
)
"""Name in the configuration -> adapter; its fields are its options."""
