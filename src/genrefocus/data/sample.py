"""One training sample: its schema and its codec, here and nowhere else.

A sample is a sharp image, the photograph of the same scene with depth of field, and what is
known about the defocus between them. The defocus map itself is never stored: it follows from
disparity, focus disparity and K (``optics.defocus_map``); a stored copy would be a second truth.

An encoded sample is a mapping from WebDataset extension to bytes::

    json            schema version, key, route, split, K, focus disparity, prompt, aperture,
                    provenance
    aif.png         8-bit sRGB
    bokeh.png       8-bit sRGB
    disparity.png   16-bit grey q; disparity = offset + scale * q, both in the JSON, 1/m
    mask.png        8-bit grey, 255 where the photograph is in focus
    <name>.png      further images, 8-bit sRGB

Where ``jpeg`` is asked for, colour images are JPEG, their members end in ``jpg``, and the JSON
says ``image_format``.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genrefocus.optics import BlurStrength

SCHEMA_VERSION = 1
"""No version reads another: a set is made again."""

ROUTES = ("synthetic", "in_the_wild", "aperture_series", "point_lights", "deblur")
SPLITS = ("train", "val", "test")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")  # a dot would end the key, a slash would nest it
_LEVELS = 65535
_FIXED_NAMES = ("aif", "bokeh", "disparity", "mask")

ImageFormat = Literal["png", "jpeg"]
_SUFFIXES: dict[str, str] = {"png": "png", "jpeg": "jpg"}
_JPEG = {"quality": 95, "subsampling": "4:4:4"}  # chroma as fine as luma: edges keep their colour


@dataclass(frozen=True)
class Sample:
    """One sample, all images and maps of one size.

    Attributes:
        key: unique within a set; letters, digits, ``_`` and ``-``.
        route: one of ``ROUTES``.
        split: one of ``SPLITS``.
        aif: all-in-focus image, (3, H, W) uint8 sRGB.
        bokeh: the photograph with depth of field, (3, H, W) uint8 sRGB. For ``deblur`` it is the
            input and ``aif`` the target.
        disparity: (H, W) float32 in 1/m, finite, >= 0, or None.
        strength: K stated for H x W, or None where the blur is not known.
        focus_disparity: d_f in 1/m; None exactly where ``strength`` is.
        mask: (H, W) bool, True where the photograph is in focus, or None.
        prompt: this sample's own prompt, or None for the prompt of the task.
        aperture: shape of the aperture of the photograph, plain JSON data, see
            ``render.apertures.described``; or None where it is not known.
        extras: further images by name, (3, H, W) uint8, such as ``pre_deblur``.
        provenance: plain JSON data: source, renderer or estimators, seed, versions.

    Raises:
        ValueError: a field that breaks the above, named with the key.
    """

    key: str
    route: str
    split: str
    aif: Tensor
    bokeh: Tensor
    disparity: Tensor | None = None
    strength: BlurStrength | None = None
    focus_disparity: float | None = None
    mask: Tensor | None = None
    prompt: str | None = None
    aperture: Mapping[str, Any] | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.key):
            raise ValueError(f"sample key {self.key!r}: use 1 to 80 letters, digits, _ and -")
        for name, value, known in (
            ("route", self.route, ROUTES),
            ("split", self.split, SPLITS),
        ):
            if value not in known:
                raise ValueError(f"sample {self.key}: {name} {value!r}; known: {', '.join(known)}")
        self._check_images()
        self._check_maps()
        if (self.strength is None) != (self.focus_disparity is None):
            raise ValueError(f"sample {self.key}: K and focus disparity are known only together")
        if self.strength is not None:
            if self.disparity is None:
                raise ValueError(f"sample {self.key}: K without disparity describes no defocus")
            if (self.strength.height, self.strength.width) != self.size:
                raise ValueError(
                    f"sample {self.key}: K is stated for "
                    f"{(self.strength.height, self.strength.width)}, the images are {self.size}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.aif.shape[-2], self.aif.shape[-1]

    def _check_images(self) -> None:
        for name, image in {"aif": self.aif, "bokeh": self.bokeh, **self.extras}.items():
            if image.dtype != torch.uint8 or tuple(image.shape) != (3, *self.size):
                raise ValueError(
                    f"sample {self.key}: {name} must be uint8 (3, H, W) of the AIF's size "
                    f"{self.size}, got {image.dtype} {tuple(image.shape)}"
                )
        for name in self.extras:
            if not _NAME.fullmatch(name) or name in _FIXED_NAMES:
                raise ValueError(f"sample {self.key}: {name!r} cannot name a further image")

    def _check_maps(self) -> None:
        for name, values, dtype in (
            ("disparity", self.disparity, torch.float32),
            ("mask", self.mask, torch.bool),
        ):
            if values is not None and (values.dtype != dtype or tuple(values.shape) != self.size):
                raise ValueError(
                    f"sample {self.key}: {name} must be {dtype} of size {self.size}, "
                    f"got {values.dtype} {tuple(values.shape)}"
                )
        if self.disparity is not None:
            low, high = (float(x) for x in self.disparity.aminmax())
            if not (low >= 0 and high < float("inf")):
                raise ValueError(
                    f"sample {self.key}: disparity in [{low}, {high}] 1/m must be finite and >= 0"
                )


def encode(sample: Sample, image_format: ImageFormat = "png") -> dict[str, bytes]:
    """Extension -> bytes, metadata first. Disparity is kept to 1 / 65535 of its range.

    Args:
        sample: any.
        image_format: of colour images. ``png`` keeps every value. ``jpeg`` (quality 95, 4:4:4)
            takes a third of the bytes and a fourth of the time to read, with the errors of a
            good camera's JPEG. It is recorded in the provenance as ``image_compression``, for
            good: the sample still says so when it is decoded and encoded again. Maps are PNG in
            either case.

    Raises:
        ValueError: an unknown format.
    """
    suffix = _suffix(image_format)
    # Samples from before there was a choice say nothing.
    recorded: dict[str, Any] = {}
    if sample.aperture is not None:
        recorded["aperture"] = dict(sample.aperture)
    provenance = dict(sample.provenance)
    if image_format != "png":
        recorded["image_format"] = image_format
        provenance["image_compression"] = {"format": image_format, **_JPEG}
    meta: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "key": sample.key,
        "route": sample.route,
        "split": sample.split,
        "height": sample.size[0],
        "width": sample.size[1],
        "k": None if sample.strength is None else sample.strength.k,
        "focus_disparity": sample.focus_disparity,
        "disparity": None,
        "prompt": sample.prompt,
        "extras": sorted(sample.extras),
        "provenance": provenance,
        **recorded,
    }
    images = {
        f"aif.{suffix}": _image_bytes(sample.aif, image_format),
        f"bokeh.{suffix}": _image_bytes(sample.bokeh, image_format),
    }
    if sample.disparity is not None:
        exact = sample.disparity.numpy().astype(np.float64)
        offset, scale = float(exact.min()), float(np.ptp(exact)) / _LEVELS
        levels = np.rint((exact - offset) / scale) if scale else np.zeros_like(exact)
        meta["disparity"] = {"offset": offset, "scale": scale, "unit": "1/m"}
        images["disparity.png"] = _png(levels.astype(np.uint16))
    if sample.mask is not None:
        images["mask.png"] = _png(sample.mask.numpy().astype(np.uint8) * 255)
    for name in sorted(sample.extras):
        images[f"{name}.{suffix}"] = _image_bytes(sample.extras[name], image_format)
    text = json.dumps(meta, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return {"json": text.encode(), **images}


def decode_metadata(data: bytes) -> dict[str, Any]:
    """The JSON member as a dictionary.

    Raises:
        ValueError: no JSON, or another schema version than this code's.
    """
    try:
        meta = json.loads(data)
        version = meta["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the metadata is no sample of this project: {error}") from error
    require_schema(version, "the sample")
    return dict(meta)


def require_schema(version: object, what: str) -> None:
    """Compare the schema version that ``what`` has, None where it has none, with this code's.

    Raises:
        ValueError: it is another one.
    """
    if version == SCHEMA_VERSION:
        return
    found = f"{what} has schema version {version}, this genrefocus reads {SCHEMA_VERSION}"
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(
            f"{found}: a newer genrefocus wrote it; update this one (git pull, make setup), or "
            "prepare the data again with this one in another folder"
        )
    raise ValueError(
        f"{found}; prepare the data again: genrefocus prepare route=..., with the settings in its "
        "index.json, in another folder"
    )


def decode(members: Mapping[str, bytes]) -> Sample:
    """The sample in a mapping from extension to bytes; the inverse of :func:`encode`.

    Raises:
        ValueError: a missing or damaged member, or another schema version.
    """
    if "json" not in members:
        raise ValueError(f"no json member among {', '.join(sorted(members)) or 'nothing'}")
    meta = decode_metadata(members["json"])
    height, width = meta["height"], meta["width"]
    suffix = _suffix(meta.get("image_format", "png"))
    disparity = None
    if meta["disparity"] is not None:
        exact = _map(members, "disparity.png").astype(np.float64)
        exact *= meta["disparity"]["scale"]  # in place: fresh memory costs more than arithmetic
        exact += meta["disparity"]["offset"]
        disparity = torch.from_numpy(exact.astype(np.float32))
    mask = torch.from_numpy(_map(members, "mask.png") > 0) if "mask.png" in members else None
    return Sample(
        key=meta["key"],
        route=meta["route"],
        split=meta["split"],
        aif=_image(members, f"aif.{suffix}"),
        bokeh=_image(members, f"bokeh.{suffix}"),
        disparity=disparity,
        strength=None if meta["k"] is None else BlurStrength(meta["k"], height, width),
        focus_disparity=meta["focus_disparity"],
        mask=mask,
        prompt=meta["prompt"],
        aperture=meta.get("aperture"),
        extras={name: _image(members, f"{name}.{suffix}") for name in meta["extras"]},
        provenance=meta["provenance"],
    )


def to_float(image: Tensor) -> Tensor:
    """8-bit image, any shape, as float32 in [0, 1]."""
    return image.float() / 255


def to_uint8(image: Tensor) -> Tensor:
    """Image in [0, 1], any shape, rounded to uint8; values outside are clipped."""
    return (image.float().clamp(0, 1) * 255).round().to(torch.uint8)


def _suffix(image_format: str) -> str:
    if image_format not in _SUFFIXES:
        raise ValueError(f"image format {image_format!r}; choose from {', '.join(_SUFFIXES)}")
    return _SUFFIXES[image_format]


def _image_bytes(image: Tensor, image_format: ImageFormat) -> bytes:
    pixels = image.permute(1, 2, 0).numpy()
    if image_format == "png":
        return _png(pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **_JPEG)
    return buffer.getvalue()


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _map(members: Mapping[str, bytes], name: str) -> np.ndarray:
    with _opened(members, name) as image:
        return np.asarray(image)


def _image(members: Mapping[str, bytes], name: str) -> Tensor:
    with _opened(members, name) as image:
        planes = image.split()  # by Pillow, in a fraction of the time that a transposed copy takes
        pixels = np.empty((len(planes), image.height, image.width), np.uint8)
        for target, plane in zip(pixels, planes, strict=True):
            target[:] = np.asarray(plane)
    return torch.from_numpy(pixels)


@contextlib.contextmanager
def _opened(members: Mapping[str, bytes], name: str) -> Iterator[Image.Image]:
    if name not in members:
        raise ValueError(f"member {name} is missing")
    try:
        with Image.open(io.BytesIO(members[name])) as image:
            yield image
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
        raise ValueError(f"member {name} is damaged: {error}") from error
