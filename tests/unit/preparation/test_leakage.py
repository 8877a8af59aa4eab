"""Leaked: copies of photographs are found, others are not; comparison against brute force."""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage import data

from genrefocus.preparation.leakage import (
    DISTANCE,
    Fingerprint,
    PlacedImage,
    account,
    find_leaks,
    fingerprint_of,
    unexcused,
)
from genrefocus.rejection import Reason, Rejected

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "moon", "grass")


@pytest.fixture(scope="module")
def photographs() -> dict[str, Image.Image]:
    """Photographs and their left halves, which are other images, by name."""
    found = {}
    for name in PHOTOGRAPHS:
        photo = Image.fromarray(getattr(data, name)()).convert("RGB")
        found[name] = photo
        found[f"{name} left"] = photo.crop((0, 0, photo.width // 2, photo.height))
    return found


def encoded(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def placed(name: str, scene: str, split: str, sha256: str, phash: str | None) -> PlacedImage:
    return PlacedImage(name, scene, split, Fingerprint(sha256, phash, "sRGB"))


def taken(content: bytes, name: str, split: str) -> PlacedImage:
    return PlacedImage(name, f"scene of {name}", split, fingerprint_of(content, name))


def cropped(image: Image.Image, part: float) -> Image.Image:
    x, y = int(image.width * part / 2), int(image.height * part / 2)
    return image.crop((x, y, image.width - x, image.height - y))


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: encoded(x, quality=30),
        lambda x: encoded(x, "PNG"),
        lambda x: encoded(x.resize((x.width // 2, x.height // 2), Image.Resampling.LANCZOS)),
        lambda x: encoded(x.resize((3 * x.width, 3 * x.height), Image.Resampling.BICUBIC)),
        lambda x: encoded(cropped(x, 0.02)),
        lambda x: encoded(ImageEnhance.Brightness(x).enhance(1.3)),
        lambda x: encoded(ImageEnhance.Brightness(x).enhance(0.6)),
        lambda x: encoded(x.convert("L"), "TIFF"),
    ],
    ids=["jpeg 30", "png", "half", "triple", "crop 2 %", "brighter", "darker", "grey tiff"],
)
def test_copies_are_found_and_nothing_else(
    photographs: dict[str, Image.Image], copy: Callable[[Image.Image], bytes]
) -> None:
    ours = [taken(encoded(x, quality=95), n, "train") for n, x in photographs.items()]
    theirs = [taken(copy(x), f"copy of {n}", "test") for n, x in photographs.items()]
    expected = [(n, f"copy of {n}", "perceptual") for n in photographs]
    for leaks in (find_leaks([*ours, *theirs]), find_leaks(ours, theirs)):
        assert [(leak.a.name, leak.b.name, leak.kind) for leak in leaks] == expected
        assert all(leak.distance <= DISTANCE for leak in leaks)


def test_different_photographs_lie_far_apart(photographs: dict[str, Image.Image]) -> None:
    """Half of the bits differ by chance; the threshold leaves room for hundreds of thousands."""
    ours = [taken(encoded(x), n, "train") for n, x in photographs.items()]
    distances = [
        (int(a.fingerprint.phash or "", 16) ^ int(b.fingerprint.phash or "", 16)).bit_count()
        for a, b in itertools.combinations(ours, 2)
    ]
    assert min(distances) > 1.4 * DISTANCE and np.median(distances) == pytest.approx(128, abs=4)


def test_equal_content_is_said_once(photographs: dict[str, Image.Image]) -> None:
    content = encoded(photographs["coffee"])
    (leak,) = find_leaks([taken(content, "a", "train"), taken(content, "b", "val")])
    assert (leak.kind, leak.distance) == ("content", 0)
    assert not find_leaks([taken(content, "a", "train"), taken(content, "b", "train")])


def test_orientation_is_applied(photographs: dict[str, Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
    turned = encoded(photographs["astronaut"].transpose(Image.Transpose.ROTATE_90), exif=exif)
    upright = encoded(photographs["astronaut"])
    (leak,) = find_leaks([taken(upright, "a", "train")], [taken(turned, "b", "test")])
    assert leak.distance <= 16


def test_grey_at_16_bits_is_not_clipped(photographs: dict[str, Image.Image]) -> None:
    grey = np.asarray(photographs["moon"].convert("L"))
    deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    flat = encoded(Image.fromarray(grey), "PNG")
    assert (
        taken(deep, "a", "train").fingerprint.phash == taken(flat, "b", "train").fingerprint.phash
    )


def test_images_without_structure_pair_by_content_only() -> None:
    rng = np.random.default_rng(0)
    plain = [Image.new("RGB", (320, 240), (level,) * 3) for level in (0, 7, 128, 255)]
    for turn in range(4):  # skies: a gradient with noise
        ramp = np.linspace(60 + 10 * turn, 200, 240)[:, None] + rng.normal(0, turn, (240, 320))
        plain.append(Image.fromarray(ramp.clip(0, 255).astype(np.uint8)))
    ours = [taken(encoded(x), f"{n}", "train") for n, x in enumerate(plain)]
    theirs = [taken(encoded(x, quality=60), f"copy {n}", "test") for n, x in enumerate(plain)]
    assert all(x.fingerprint.phash is None for x in [*ours, *theirs])
    assert not find_leaks(ours, theirs)
    again = taken(encoded(plain[0]), "again", "test")
    assert [leak.kind for leak in find_leaks(ours, [*theirs, again])] == ["content"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no image", Reason.NOT_AN_IMAGE),
        (b"", Reason.NOT_AN_IMAGE),
        (encoded(Image.fromarray(data.camera()))[:5000], Reason.IMAGE_DAMAGED),
        (encoded(Image.fromarray(data.camera()), "PNG")[:5000], Reason.IMAGE_DAMAGED),
    ],
)
def test_what_is_no_image_is_rejected(content: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        taken(content, "the name", "train")
    assert caught.value.reason is reason and "the name" in caught.value.detail


def synthetic(count: int, seed: int) -> list[PlacedImage]:
    """Random hashes, some near or equal to earlier ones, some missing; content repeats at times."""
    rng = np.random.default_rng(seed)
    hashes: list[int] = []
    found = []
    for number in range(count):
        value = int.from_bytes(rng.bytes(32))
        if hashes and rng.random() < 0.1:
            flips = rng.choice(256, int(rng.integers(0, 90)), replace=False)
            value = hashes[int(rng.integers(len(hashes)))] ^ sum(1 << int(x) for x in flips)
        hashes.append(value)
        phash = None if rng.random() < 0.05 else f"{value:064x}"
        split = str(rng.choice(["train", "val", "test"], p=[0.7, 0.2, 0.1]))
        content = f"{int(rng.integers(count * 20))}"
        found.append(placed(f"{seed}/{number}", f"{number}", split, content, phash))
    return found


def oracle(pairs: list[tuple[PlacedImage, PlacedImage]], distance: int) -> set[tuple]:
    found = set()
    for a, b in pairs:
        if a.fingerprint.sha256 == b.fingerprint.sha256:
            found.add((frozenset((a.name, b.name)), "content", 0))
        elif a.fingerprint.phash and b.fingerprint.phash:
            bits = (int(a.fingerprint.phash, 16) ^ int(b.fingerprint.phash, 16)).bit_count()
            if bits <= distance:
                found.add((frozenset((a.name, b.name)), "perceptual", bits))
    return found


@pytest.mark.parametrize("distance", [0, 30, DISTANCE])
def test_comparison_agrees_with_brute_force(distance: int) -> None:
    """More than fit a tile in both directions, with sizes that do not divide."""
    ours, theirs = synthetic(700, 1), synthetic(150, 2)
    theirs += [
        placed(f"b{n}", "", "test", f"c{n}", x.fingerprint.phash) for n, x in enumerate(ours[::9])
    ]
    crossing = [(a, b) for a, b in itertools.combinations(ours, 2) if a.split != b.split]
    expected = oracle(crossing + list(itertools.product(ours, theirs)), distance)
    leaks = find_leaks(ours, theirs, distance=distance)
    found = [(frozenset((x.a.name, x.b.name)), x.kind, x.distance) for x in leaks]
    assert len(found) == len(set(found)) and set(found) == expected
    assert {kind for _, kind, _ in expected} == {"content", "perceptual"}


def test_tiles_meet_without_a_gap() -> None:
    """A wide side of two tiles; each of these has its copy at the other end."""
    many = [placed(f"{n}", "", "train", f"{n}", f"{n << 200:064x}") for n in range(5000)]
    few = [placed(f"c{n}", "", "test", f"c{n}", f"{n << 200:064x}") for n in (0, 4095, 4096)]
    leaks = find_leaks(few, many, distance=0)
    assert [leak.b.name for leak in leaks] == ["0", "4095", "4096"]


def leaking(count: int) -> list[PlacedImage]:
    return [
        placed(f"{split} {n}", f"s{n}", split, f"{n}", None)
        for split in ("train", "test")
        for n in range(count)
    ]


def test_an_account_of_leaks_is_bounded() -> None:
    message = account(find_leaks(leaking(400)))
    assert "400 pairs" in message and "390 more" in message and "leakage.allow" in message
    assert "train 0 (train, scene s0) and test 0 (test, scene s0): equal content" in message
    assert message.count("\n") < 15


def test_allowed_names_are_excused_and_unknown_ones_are_an_error() -> None:
    leaks = find_leaks(leaking(3))
    assert not unexcused(leaks, ["train 0", "test 1", "train 2"])
    assert [leak.a.name for leak in unexcused(leaks, {"train 0", "test 1"})] == ["train 2"]
    with pytest.raises(ValueError, match="train 9"):
        unexcused(leaks, ["train 0", "test 1", "train 2", "train 9"])


@pytest.mark.parametrize("distance", [-1, 256])
def test_a_distance_beyond_the_hash(distance: int) -> None:
    with pytest.raises(ValueError, match="0 to 255"):
        find_leaks([], distance=distance)
