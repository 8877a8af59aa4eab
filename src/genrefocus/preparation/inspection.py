"""What a set of shards holds, from its index and the metadata of its samples."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from PIL import Image

from genrefocus.data.shards import ShardDataset, read_index
from genrefocus.preparation.ledger import distribution
from genrefocus.report import spread
from genrefocus.report.contact_sheet import contact_sheet
from genrefocus.report.thumbnails import columns_of, sample_images

ORIGINS = ("renderer", "aperture", "depth", "mask", "deblur", "blur", "shapes", "code_version")
"""Names in a sample's provenance of what made it."""

MEASURES = ("k", "focus_disparity", "largest_radius", "mask_agreement")

_PREVIEW_EDGE = 200  # px


def inspect_set(dataset: ShardDataset) -> dict[str, Any]:
    """Read the metadata of every sample, and no image.

    Returns:
        JSON data: ``fingerprint`` of the content; ``schema_version``; ``shards``, ``samples``,
        ``captions`` (samples that have one) and ``bytes``; ``routes``, ``splits`` and ``sizes``
        (WxH in px): name -> samples; ``origins``: what made the samples (``ORIGINS``) -> name ->
        samples; ``distributions``: one of ``MEASURES`` (K in px at 1/m, focus disparity in 1/m) ->
        ``samples`` that have it, min, p5, median, p95, max. Origins and measures that no sample has
        are left out.

    Raises:
        ValueError: a sample is damaged; the message names shard and key.
    """
    rows = [_facts(dataset.metadata(number)) for number in range(len(dataset))]
    columns = ["route", "split", "size", "prompt", *ORIGINS, *MEASURES]
    samples = pd.DataFrame(rows, columns=columns)
    counts = {name: _counts(samples[name]) for name in ("route", "split", "size", *ORIGINS)}
    measured = samples[list(MEASURES)].astype(float)
    index = read_index(dataset.folder)
    return {
        "fingerprint": dataset.fingerprint,
        "schema_version": index["schema_version"],
        "shards": len(index["shardlist"]),
        "samples": len(dataset),
        "captions": int(samples["prompt"].count()),
        "bytes": sum(shard["filesize"] for shard in index["shardlist"]),
        **{f"{name}s": counts[name] for name in ("route", "split", "size")},
        "origins": {name: counts[name] for name in ORIGINS if counts[name]},
        "distributions": {
            name: {"samples": int(column.count()), **distribution(column.to_numpy())}
            for name, column in measured.items()
            if column.count()
        },
    }


def preview(dataset: ShardDataset, most: int) -> Image.Image:
    """A contact sheet of samples that are evenly spread over a set with samples.

    Raises:
        ValueError: a sample is damaged; the message names shard and key.
    """
    rows = [sample_images(dataset[n], _PREVIEW_EDGE) for n in spread(len(dataset), most)]
    columns = columns_of(rows)
    return contact_sheet([[row.get(title) for title in columns] for row in rows], columns, 1)


def _facts(meta: Mapping[str, Any]) -> dict[str, Any]:
    provenance = meta["provenance"]
    size = {"size": f"{meta['width']}x{meta['height']}"}
    return {**provenance, **provenance.get("measures", {}), **meta, **size}


def _counts(column: pd.Series) -> dict[str, int]:
    """Name -> samples, the most frequent first."""
    found = column.dropna().astype(str).value_counts()
    return found.sort_index().sort_values(ascending=False, kind="stable").to_dict()
