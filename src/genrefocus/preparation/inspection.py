"""What a set of shards holds, from its index and the metadata of its samples."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from genrefocus.data.shards import ShardDataset, read_index
from genrefocus.pictures import contact_sheet
from genrefocus.preparation.outcome import distribution
from genrefocus.report import spread
from genrefocus.report.thumbnails import columns_of, sample_images

ORIGINS = ("renderer", "aperture", "depth", "mask", "deblur", "blur", "shapes", "code_version")
"""Names in a sample's provenance of what made it."""

MEASURES = ("largest_radius", "mask_agreement")

_PREVIEW_EDGE = 200  # px


@dataclass(frozen=True)
class SetFacts:
    """What a set holds; ``dataclasses.asdict`` makes JSON data of it.

    Attributes:
        fingerprint: of the content.
        schema_version: of its samples.
        shards, samples, bytes: counts.
        routes, splits, sizes: name -> samples; a size is ``HxW`` in px.
        origins: what made the samples (``ORIGINS``) -> name -> samples; only what is recorded.
        distributions: ``k`` (px at 1/m), ``focus_disparity`` (1/m), ``largest_radius`` (px),
            ``mask_agreement`` -> ``samples`` that have it, min, p5, median, p95, max; only what
            some sample has.
    """

    fingerprint: str
    schema_version: int
    shards: int
    samples: int
    bytes: int
    routes: Mapping[str, int]
    splits: Mapping[str, int]
    sizes: Mapping[str, int]
    origins: Mapping[str, Mapping[str, int]]
    distributions: Mapping[str, Mapping[str, float]]


def inspect_set(dataset: ShardDataset) -> SetFacts:
    """Read the metadata of every sample, and no picture.

    Raises:
        ValueError: a sample is damaged; the message names shard and key.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    values: dict[str, array[float]] = {
        name: array("d") for name in ("k", "focus_disparity", *MEASURES)
    }
    for number in range(len(dataset)):
        meta = dataset.metadata(number)
        provenance = meta["provenance"]
        counts["route"][meta["route"]] += 1
        counts["split"][meta["split"]] += 1
        counts["size"][f"{meta['height']}x{meta['width']}"] += 1
        for origin in ORIGINS:
            if provenance.get(origin) is not None:
                counts[origin][str(provenance[origin])] += 1
        for name, column in values.items():
            if (value := _value(meta, name)) is not None:
                column.append(value)
    index = read_index(dataset.folder)
    return SetFacts(
        fingerprint=dataset.fingerprint,
        schema_version=index["schema_version"],
        shards=len(index["shardlist"]),
        samples=len(dataset),
        bytes=sum(shard["filesize"] for shard in index["shardlist"]),
        routes=_most_common(counts["route"]),
        splits=_most_common(counts["split"]),
        sizes=_most_common(counts["size"]),
        origins={origin: _most_common(counts[origin]) for origin in ORIGINS if counts[origin]},
        distributions={
            name: {"samples": len(column), **distribution(np.array(column))}
            for name, column in values.items()
            if column
        },
    )


def preview(dataset: ShardDataset, most: int) -> Image.Image:
    """A contact sheet of samples that are evenly spread over a set with samples.

    Raises:
        ValueError: a sample is damaged; the message names shard and key.
    """
    numbers = spread(len(dataset), most)
    rows = [sample_images(dataset[number], _PREVIEW_EDGE) for number in numbers]
    columns = columns_of(rows)
    return contact_sheet([[row.get(title) for title in columns] for row in rows], columns, 1)


def _value(meta: Mapping[str, Any], name: str) -> float | None:
    """A number of a sample: its own, or as it was measured."""
    if name in meta:
        return None if meta[name] is None else float(meta[name])
    provenance = meta["provenance"]
    value = provenance.get("measures", {}).get(name, provenance.get(name))
    return None if value is None else float(value)


def _most_common(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda one: (-one[1], one[0])))
