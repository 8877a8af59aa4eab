"""Checks before a run that need no GPU and no network: shards, photographs, weights.

Torch is imported in functions: what a path says must not wait for it.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genrefocus.photograph.decoding import image_size
from genrefocus.photograph.exif import read_exposure
from genrefocus.rejection import Rejected
from genrefocus.terminal import counted

Verdict = Literal["ok", "warning", "error"]

_FLUX_WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_GIB = 1024**3


@dataclass(frozen=True)
class Finding:
    """One result.

    Attributes:
        subject: what was checked.
        verdict: an error would end the run, a warning would not.
        detail: what was found.
        remedy: override or command that mends it; empty where nothing has to be.
    """

    subject: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def check_shards(
    folder: Path, *, crop: int, made_by: str | None, option: str, reads: str | None = None
) -> tuple[Finding, int | None]:
    """Whether a set can be read, and its number of samples, None where that is not known yet.

    Args:
        folder: of the set.
        crop: edge in px that its samples must have.
        made_by: what makes it during the run, if something does.
        option: override that names another folder.
        reads: further image that samples must have.
    """
    from genrefocus.data.shards import ShardDataset, require_crop

    subject, other = f"shards {folder}", f"{option}=<folder of a finished set>"
    if made_by is not None and not (folder / "index.json").is_file():
        if reads is not None and made_by.startswith("stage "):
            lacking = f"will be made by {made_by}, without the image {reads!r}"
            return Finding(subject, "error", lacking, other), None
        return Finding(subject, "ok", f"will be made by {made_by}"), None
    try:
        one = ShardDataset(folder)
        ends = [one[0], one[len(one) - 1]] if len(one) else []  # they decode
        if reads is not None and any(reads not in end.extras for end in ends):
            raise ValueError(f"{folder} has samples without the image {reads!r}")
        if 16 <= one.least_edge < crop:
            other = f"data.crop={one.least_edge // 16 * 16}, or {other}"
        require_crop(one, crop)
    except (ValueError, OSError) as error:
        return Finding(subject, "error", str(error), other), None
    if not len(one) and folder.name == "val" and made_by is not None:  # of few photographs
        return Finding(subject, "warning", f"{made_by} left it empty: the run goes on without"), 0
    if not len(one):
        return Finding(
            subject,
            "error",
            "holds no sample",
            f"{option}=[<another set>], or prepare it with other splits",
        ), 0
    detail = f"{counted(len(one), 'sample')}, {one.fingerprint[:12]}"
    return Finding(subject, "ok", detail), len(one)


def states_blur(folder: Path) -> bool:
    """Whether the first sample of a set has depth and K, from which its defocus map follows."""
    from genrefocus.data.shards import ShardDataset

    first = ShardDataset(folder)[0]
    return first.disparity is not None and first.strength is not None


def check_sidecars(
    photos: Mapping[str, Path], folder: Path, what: Literal["depth", "mask"], *, by_exif: bool
) -> list[Finding]:
    """Whether photographs have their depth maps or masks in a folder.

    Args:
        photos: name -> file.
        folder: of the estimates.
        what: is looked for.
        by_exif: those that EXIF rejects need none.
    """
    suffix = {"depth": ".npy", "mask": ".png"}[what]
    missing = [name for name in photos if not (folder / name).with_suffix(suffix).is_file()]
    needed = next((one for one in missing if not by_exif or _has_facts(photos[one])), None)
    if needed is None:
        return []
    first = (folder / needed).with_suffix(suffix)
    detail = f"{len(missing)} of {len(photos)} images have none; {first} is needed"
    return [Finding(what, "error", detail, estimates_remedy(what))]


def check_captions(captions: Any, photos: Sequence[str]) -> Iterator[Finding]:
    """Whether photographs have their captions, a ``preparation.sources.Captions``."""
    try:
        captions.of_all(photos)
    except (ValueError, OSError) as error:
        yield Finding("captions", "error", str(error), "captions=none, or captions=...")


def estimates_remedy(what: Literal["depth", "mask"]) -> str:
    """Where depth or masks of photographs may come from, as overrides."""
    network = {
        "depth": "depth=pretrained depth.model=<network of transformers>",
        "mask": "mask=detail_retention",
    }[what]
    return (
        f"data.estimates=<folder that holds {what}/>, or {what}.folder=<folder>, or {network}, or "
        f"{what}=onnx {what}.file=<ONNX file>"
    )


def check_sizes(photos: Path, *, long_edge: int, least_edge: int) -> list[Finding]:
    """How many photographs are turned away as their short edge is too small at the working size."""
    from genrefocus.data.images import images_below
    from genrefocus.geometry import size_within

    edges, needed = [], 0
    for path in images_below(photos):
        with contextlib.suppress(Rejected):  # the stage says why it turns it away
            size = image_size(path)
            edges.append(min(size_within(*size, long_edge)))
            if edges[-1] < least_edge <= min(size):
                needed = max(needed, math.ceil(max(size) * least_edge / min(size)))
    small = [edge for edge in edges if edge < least_edge]
    if not small:
        return []
    low, high = min(small), max(small)
    edges_shown = f"{low}" if low == high else f"{low} to {high}"
    detail = (
        f"{len(small)} of {len(edges)} in {photos} are turned away and counted as "
        f"image_too_small: their short edge is {edges_shown} px at "
        f"data.long_edge={long_edge}, the crop {least_edge}"
    )
    remedies = [f"data.long_edge={needed}"] if needed else []
    remedies += [f"data.crop={low // 16 * 16}"] if low >= 16 else []
    remedies = remedies or ["data.photos=<folder of larger ones>"]
    verdict: Verdict = "error" if len(small) == len(edges) else "warning"
    return [Finding("photographs", verdict, detail, ", or ".join(remedies))]


def _has_facts(photo: Path) -> bool:
    try:
        read_exposure(photo)
    except Rejected:
        return False
    return True


def check_metrics() -> Finding:
    """Trunks of LPIPS."""
    from genrefocus.metrics.lpips import lpips_available
    from genrefocus.metrics.trunks import NETS

    missing = [net for net in NETS if not lpips_available(net)]
    if missing:
        detail = f"LPIPS will be missing: no trunk of {', '.join(missing)} under TORCH_HOME"
        return Finding("metric weights", "warning", detail, "genrefocus weights")
    return Finding("metric weights", "ok", "LPIPS is available")


def check_flux(path: str) -> Finding:
    """Whether FLUX.1-dev is a folder, in the hub's cache, or within reach."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    subject, local = "FLUX.1-dev", "backbone.path=<folder of FLUX.1-dev>"
    if Path(path).is_dir():
        if lacking := _lacking(Path(path)):
            first = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" * (len(lacking) > 4))
            remedy = f"hf download black-forest-labs/FLUX.1-dev --local-dir {path}"
            return Finding(subject, "error", f"{path} lacks {first}", remedy)
        return Finding(subject, "ok", f"folder {path}, all files")
    try:
        if in_hub_cache(path):
            return Finding(subject, "ok", f"{path} in the hub's cache")
        HfApi().auth_check(path)
    except Exception as error:  # the hub's client names its network failures anew with versions
        refused = isinstance(error, HfHubHTTPError) and not isinstance(error, OfflineModeIsEnabled)
        if refused and get_token() is None:
            return Finding(subject, "error", f"{path} needs a token", f"hf auth login, or {local}")
        detail = f"no folder {path}, and the hub gave {type(error).__name__}"
        if isinstance(error, HFValidationError):  # of a path, which names no repository
            detail = f"{path} does not exist"
        return Finding(subject, "error", detail, local)
    return Finding(subject, "ok", f"{path} on the hub, access granted")


def in_hub_cache(name: str) -> bool:
    """Whether a model of the hub has been downloaded."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "model_index.json"), str)


def _lacking(flux: Path) -> list[str]:
    """Files of a FLUX folder that are not there, or hold less than their index says."""
    needed = ["scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"]
    needed += ["tokenizer_2/spiece.model"]
    lacking = []
    for part, stem in _FLUX_WEIGHTS.items():
        needed.append(f"{part}/config.json")
        index = flux / part / f"{stem}.safetensors.index.json"
        if not index.is_file():
            needed.append(f"{part}/{stem}.safetensors")
            continue
        try:
            content = json.loads(index.read_bytes())
            shards = sorted({f"{part}/{name}" for name in content["weight_map"].values()})
            total = int(content["metadata"]["total_size"])
        except (ValueError, KeyError, TypeError, AttributeError):
            lacking.append(f"a readable {part}/{index.name}")
            continue
        needed += shards
        there = [flux / name for name in shards if (flux / name).is_file()]
        if len(there) == len(shards) and sum(file.stat().st_size for file in there) < total:
            lacking.append(f"a part of {part} (its files are smaller than {index.name} says)")
    return [name for name in needed if not (flux / name).is_file()] + lacking


def shown_size(count: float) -> str:
    """Of so many bytes: ``1.5 GiB``."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB // 10 else f"{count / 1024**2:.1f} MiB"
