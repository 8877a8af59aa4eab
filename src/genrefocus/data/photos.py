"""A folder of photographs -> ``in_the_wild`` shards: the pseudo all-in-focus route.

The photograph is the target; its sharp picture comes from a deblurring function, depth and in-focus
mask from estimators, focus from both, and K from the EXIF by Eq. 3. What cannot be used goes to a
ledger with its reason; nothing falls back to a constant.
"""

import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from genrefocus import __version__
from genrefocus.data.images import PICTURE_SUFFIXES, load_image
from genrefocus.data.sample import SPLITS, Sample, to_uint8
from genrefocus.data.shards import ShardWriter, is_finished, read_index, write_atomically
from genrefocus.estimators import DepthEstimator, MaskEstimator, Photo, mask_agreement
from genrefocus.exif import ExposureFacts, read_exposure
from genrefocus.geometry import View, resize
from genrefocus.optics import blur_strength_from_exif, depth_to_disparity, focus_disparity
from genrefocus.rejection import Rejected

LEDGER_NAME = "rejections.jsonl"
DEFAULT_SPLITS: Mapping[str, float] = {"train": 0.9, "val": 0.05, "test": 0.05}

Deblur = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Source:
    """A photograph file: name within the folder, digest of its content."""

    path: Path
    name: str
    digest: str


@dataclass(frozen=True)
class _Loaded:
    """A photograph with exposure facts, at its working size."""

    source: _Source
    facts: ExposureFacts
    image: Tensor


def prepare_photos(
    photos: str | Path,
    out: str | Path,
    *,
    depth: DepthEstimator,
    mask: MaskEstimator,
    deblur: Deblur,
    deblur_name: str = "DeblurNet",
    long_edge: int = 1024,
    batch_size: int = 8,
    splits: Mapping[str, float] = DEFAULT_SPLITS,
    samples_per_shard: int = 500,
    progress: bool = True,
) -> dict[str, Any]:
    """Write ``out``/<split> sets of shards from all photographs below a folder.

    Interrupted, it goes on behind the last complete shard and ends at the same bytes. Finished
    splits of the same parameters are left as they are.

    Args:
        photos: folder, searched with its sub-folders.
        out: folder of the sets, one a split, each with its ledger ``rejections.jsonl``.
        depth, mask: estimators; see their protocols.
        deblur: (B, 3, H, W) in [0, 1] -> sharp pictures of the same shape; any H and W that
            photographs at ``long_edge`` have.
        deblur_name: for provenance: network and weights.
        long_edge: photographs that are larger are scaled to it, px; smaller ones are kept.
        batch_size: photographs at a time, for deblurring those of equal size and for estimators.
        splits: split -> share of the photographs, by a hash of their content: adding photographs
            moves none to another split.
        samples_per_shard: an interrupted preparation repeats at most so many.
        progress: show a bar with the time that is left on stderr.

    Returns:
        ``found``; ``written``, by split; and ``rejected``, by reason. Plain JSON data.

    Raises:
        FileNotFoundError: no folder, or a sidecar is missing.
        ValueError: no photograph at all, or none that can be used; it says what was found, what
            was turned away and why, and the override that mends it.
    """
    folder, out = Path(photos), Path(out)
    _check_splits(splits)
    sources = _find(folder)
    parameters = {
        "kind": "photographs",
        "depth": depth.name,
        "mask": mask.name,
        "deblur": deblur_name,
        "long_edge": long_edge,
        "code_version": __version__,
    }
    preparation = _Preparation(
        depth, mask, deblur, deblur_name, long_edge, batch_size, samples_per_shard
    )
    written: dict[str, int] = {}
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    console = Console(stderr=True)
    with Progress(console=console, disable=not progress) as bar:
        for split in splits:
            chosen = [one for one in sources if _split_of(one, splits) == split]
            title = f"photographs, {split}"
            task = bar.add_task(title, total=len(chosen), visible=bool(chosen))
            listed = hashlib.sha256("".join(one.name + one.digest for one in chosen).encode())
            record = {**parameters, "split": split, "photographs": listed.hexdigest()}
            advance = functools.partial(bar.advance, task)
            _prepare_split(preparation, chosen, out / split, split, record, advance)
            written[split] = int(read_index(out / split)["samples"])
            for entry in _read_ledger(out / split):
                reasons[entry["reason"]] += 1
                examples.setdefault(entry["reason"], f"{entry['file']}: {entry['detail']}")
    if progress and reasons:
        console.print(f"rejected {_counts(reasons)}; see {out}/*/{LEDGER_NAME}", soft_wrap=True)
    if not sum(written.values()):
        shown = "; ".join(f"{name}: {example}" for name, example in sorted(examples.items()))
        raise ValueError(
            f"no photograph of {len(sources)} in {folder} can be used; rejected {_counts(reasons)} "
            f"({shown}); name another folder with data.photos=/path, or other estimators with "
            "data.depth and data.mask"
        )
    return {"found": len(sources), "written": written, "rejected": dict(sorted(reasons.items()))}


@dataclass(frozen=True)
class _Preparation:
    depth: DepthEstimator
    mask: MaskEstimator
    deblur: Deblur
    deblur_name: str
    long_edge: int
    batch_size: int
    samples_per_shard: int

    def load(self, source: _Source) -> _Loaded:
        """Read EXIF and picture, scaled to the long edge."""
        facts = read_exposure(source.path)
        image = load_image(source.path)
        height, width = image.shape[-2:]
        scale = self.long_edge / max(height, width)
        if scale < 1:
            size = max(1, round(height * scale)), max(1, round(width * scale))
            image = resize(View(image), *size).image
        return _Loaded(source, facts, image)

    def sharpen(self, loaded: Sequence[_Loaded]) -> list[Photo]:
        """The photographs with their sharp pictures, deblurred together where sizes agree."""
        sharp: dict[str, Tensor] = {}
        for size in sorted({tuple(one.image.shape) for one in loaded}):
            same = [one for one in loaded if tuple(one.image.shape) == size]
            answer = self.deblur(torch.stack([one.image for one in same])).detach().float().cpu()
            assert answer.shape[1:] == size, f"deblur turned {size} into {tuple(answer.shape)}"
            sharp |= {one.source.name: aif for one, aif in zip(same, answer, strict=True)}
        return [Photo(one.source.name, one.image, sharp[one.source.name]) for one in loaded]

    def outcomes(self, batch: Sequence[_Source], split: str) -> list[Sample | Rejected]:
        """A sample, or why there is none, for each file."""
        found: dict[str, Sample | Rejected] = {}
        loaded = []
        for source in batch:
            try:
                loaded.append(self.load(source))
            except Rejected as rejected:
                found[source.name] = rejected
        if loaded:
            photos = self.sharpen(loaded)
            maps, masks = self.depth.depth(photos), self.mask.mask(photos)
            for one, photo, depth, mask in zip(loaded, photos, maps, masks, strict=True):
                try:
                    found[photo.name] = self.sample(one, photo, depth, mask, split)
                except Rejected as rejected:
                    found[photo.name] = rejected
        return [found[source.name] for source in batch]

    def sample(
        self, loaded: _Loaded, photo: Photo, depth: Tensor, mask: Tensor, split: str
    ) -> Sample:
        """The sample, with K stated for the photograph's working size; or Rejected."""
        disparity = depth_to_disparity(depth)
        focus = focus_disparity(disparity, mask)
        strength = blur_strength_from_exif(loaded.facts, focus, *photo.size).require_positive()
        source = loaded.source
        return Sample(
            key=_key(source),
            route="in_the_wild",
            split=split,
            aif=to_uint8(photo.aif),
            bokeh=to_uint8(photo.image),
            disparity=disparity.float(),
            strength=strength,
            focus_disparity=focus,
            mask=mask,
            provenance={
                "source": source.name,
                "sha256": source.digest,
                "deblur": self.deblur_name,
                "depth": self.depth.name,
                "mask": self.mask.name,
                "mask_agreement": mask_agreement(mask, photo),
                "exif": asdict(loaded.facts),
                "code_version": __version__,
            },
        )


def _prepare_split(
    preparation: _Preparation,
    sources: Sequence[_Source],
    folder: Path,
    split: str,
    parameters: Mapping[str, Any],
    advance: Callable[[int], None],
) -> None:
    if is_finished(folder, parameters):
        advance(len(sources))
        return
    with ShardWriter(
        folder, parameters=parameters, samples_per_shard=preparation.samples_per_shard
    ) as writer:
        done = _position_behind(writer.written, sources)
        ledger = _begin_ledger(folder, {one.name for one in sources[:done]})
        # From the start of a batch: a picture's last bit may depend on those beside it.
        begin = done - done % preparation.batch_size
        advance(begin)
        for first in range(begin, len(sources), preparation.batch_size):
            batch = sources[first : first + preparation.batch_size]
            outcomes = preparation.outcomes(batch, split)
            for source, outcome in list(zip(batch, outcomes, strict=True))[max(done - first, 0) :]:
                if isinstance(outcome, Rejected):
                    _append_to_ledger(ledger, source, outcome)
                else:
                    writer.write(outcome)
            advance(len(batch))


def _find(folder: Path) -> list[_Source]:
    """All photographs below a folder, in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"folder of photographs {folder} does not exist; set data.photos")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        kinds = Counter(path.suffix.lower() or "without suffix" for path in files)
        raise ValueError(
            f"no photographs in {folder}: found {_counts(kinds) if files else 'no files'}, looked "
            f"for {', '.join(PICTURE_SUFFIXES)}; name another folder with data.photos=/path"
        )
    return [
        _Source(
            path,
            path.relative_to(folder).as_posix(),
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in pictures
    ]


def _check_splits(splits: Mapping[str, float]) -> None:
    if set(splits) - set(SPLITS) or any(share < 0 for share in splits.values()):
        raise ValueError(f"splits {dict(splits)}: give shares >= 0 of {', '.join(SPLITS)}")
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise ValueError(f"splits {dict(splits)} must add up to 1")


def _split_of(source: _Source, splits: Mapping[str, float]) -> str:
    place, begin = int(source.digest[:15], 16) / 16**15, 0.0
    for split, share in splits.items():
        begin += share
        if place < begin:
            return split
    return list(splits)[-1]


def _key(source: _Source) -> str:
    """Readable, and unique also for copies of one file."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source.name).stem)[:40]
    return f"{stem}-{hashlib.sha256((source.name + source.digest).encode()).hexdigest()[:12]}"


def _position_behind(keys: Sequence[str], sources: Sequence[_Source]) -> int:
    """How many photographs lie before the end of the last complete shard."""
    if not keys:
        return 0
    return [_key(source) for source in sources].index(keys[-1]) + 1


def _begin_ledger(folder: Path, names: set[str]) -> Path:
    """The ledger with what it already says about the named photographs."""
    kept = [entry for entry in _read_ledger(folder) if entry["file"] in names]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / LEDGER_NAME, b"".join(_line(entry) for entry in kept))
    return folder / LEDGER_NAME


def _append_to_ledger(ledger: Path, source: _Source, rejected: Rejected) -> None:
    entry = {
        "key": _key(source),
        "file": source.name,
        "reason": rejected.reason.value,
        "value": rejected.value,
        "detail": rejected.detail,
    }
    with ledger.open("ab") as file:
        file.write(_line(entry))


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, default=str).encode() + b"\n"


def _read_ledger(folder: Path) -> list[dict[str, Any]]:
    path = folder / LEDGER_NAME
    # A process that was killed may have left its last line unfinished.
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items())) or "none"
