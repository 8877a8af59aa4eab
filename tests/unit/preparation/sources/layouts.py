"""Miniatures of data sets in their true layouts."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import piexif
import pyarrow as pa
import pyarrow.parquet as pq
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

import genrefocus.configuration.composing  # noqa: F401  registers the options
from genrefocus.preparation.item import Item, Source
from genrefocus.rejection import Reason, Rejected

CONF = Path(__file__).parents[4] / "conf"
THIRD_STOPS = [
    2,
    2.2,
    2.5,
    2.8,
    3.2,
    3.5,
    4,
    4.5,
    5,
    5.6,
    6.3,
    7.1,
    8,
    9,
    10,
    11,
    13,
    14,
    16,
    18,
    20,
]
EXPOSURE = {
    "Exif": {piexif.ExifIFD.FNumber: (28, 10), piexif.ExifIFD.FocalLength: (50, 1)},
    "0th": {
        piexif.ImageIFD.Make: "Canon",
        piexif.ImageIFD.Model: "EOS 5D",
        piexif.ImageIFD.Artist: "A. Person",
    },
    "GPS": {piexif.GPSIFD.GPSLatitudeRef: "N", piexif.GPSIFD.GPSLatitude: ((1, 1),) * 3},
}


def image(path: Path, exif: dict | None = None) -> Path:
    """A tiny image of the suffix's format; every path has its own colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(random.Random(path.as_posix()).randbytes(3))
    extra = {"exif": piexif.dump(exif)} if exif else {}
    Image.new("RGB", (8, 6), colour).save(path, **extra)
    return path


def images(root: Path, *names: str) -> None:
    for name in names:
        image(root / name)


def clutter(root: Path) -> None:
    """Files that systems leave in every folder."""
    for folder in [root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"\0")
        (folder / "Thumbs.db").write_bytes(b"\0")
        (folder / "._1P0A0890.png").write_bytes(b"\0")
        image(folder / ".hidden/1.png")


def dpdd(root: Path) -> Path:
    # Numbers as in the authors' lists; the sharp exposure came first in the test split.
    numbers = {
        "train": {890: 891, 892: 893, 898: 899},
        "val": {894: 895},
        "test": {917: 916, 933: 932},
    }
    for split, pairs in numbers.items():
        for source, target in pairs.items():
            images(root / f"{split}_c", f"source/1P0A0{source}.png", f"target/1P0A0{target}.png")
            images(root, *(f"{split}_{side}/source/1P0A0{source}.png" for side in "lr"))
    return root


def realdof(root: Path) -> Path:
    images(root, *(f"{kind}/{number}.png" for kind in ("source", "target") for number in (1, 2)))
    return root


def ebb(root: Path) -> Path:
    for split, count in (("train", 3), ("test", 1)):
        for number in range(count):
            images(root, f"{split}/original/{number}.jpg", f"{split}/bokeh/{number}.jpg")
            image(root / f"{split}/original_depth/{number}.png")
    return root


def lfdof(root: Path) -> Path:
    for split, scene in (("train", "IMG_1275"), ("train", "IMG_2001"), ("test", "IMG_2162")):
        image(root / f"{split}_data/ground_truth/{scene}.png")
        for step in range(3):
            image(root / f"{split}_data/input/{scene}/{scene}_ap1_{step:02d}.png")
    return root


def realbokeh_scene(base: Path, scene: str, f_numbers: list[float], **changes) -> dict:
    """A scene as published: f/2 is written 2.0, f/10 is written 10."""
    written = [f"{number:.1f}" if number < 10 else f"{number}" for number in f_numbers]
    names = [f"gt/{scene}/{scene}_f{number}.JPG" for number in written]
    meta = {
        "id": int(scene),
        "source_image": f"in/{scene}_f22.JPG",
        "source_av": 22.0,
        "target_images": names,
        "target_avs": [float(n) for n in f_numbers],
        "focal_length": 53,
        "ISO": 100,
        "EV": 13.125,
        "focus_plane_distance": 0.93,
        "focus_plane_uncertainty": 0.03,
    }
    meta = {name: value for name, value in (meta | changes).items() if value is not ...}
    images(base, f"in/{scene}_f22.JPG", *names)
    (base / "metadata").mkdir(exist_ok=True)
    (base / f"metadata/{scene}.json").write_text(json.dumps(meta))
    return meta


def realbokeh(root: Path) -> Path:
    realbokeh_scene(root / "train", "1", [2, 4, 7.1, 9, 20])
    realbokeh_scene(root / "train", "135", [2, 20])
    realbokeh_scene(root / "validation", "11", [2, 2.2])
    realbokeh_scene(root / "test", "135", THIRD_STOPS)
    return root


def focal_stacks(root: Path) -> Path:
    """A scene of Learn2Refocus' set by two of its cameras, and a plain folder with an index map."""
    for camera in ("RigCenter", "RigLeft"):
        folder = f"FSK_1/midsize/undistorted/{camera}"
        images(root, *(f"{folder}/focal_position_{n:04d}_frame_0000.jpg" for n in range(9)))
    images(root, *(f"street/frame{n}.png" for n in (1, 2, 10)))
    Image.new("L", (8, 6), 2).save(root / "street" / "street_depthmap.png")
    return root


def photographs(root: Path) -> Path:
    images(root, "b.JPG", "a/c.png", "a/d.jpeg")
    (root / "notes.txt").write_text("no image")
    return root


def pairs(root: Path) -> Path:
    images(root, "sharp/1.png", "sharp/day/2.png", "photo/1.JPG", "photo/day/2.jpg")
    return root


def table(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    cells = [image(root.parent / f"cell{n}.jpg").read_bytes() for n in range(3)]
    rows = {"image": cells, "f_number": [1.8, 2.8, None], "focal_length": [50, 35, None]}
    pq.write_table(pa.table(rows), root / "photos.parquet")
    return root


def developed(root: Path) -> Path:
    for name in ("a.NEF", "trip/b.dng"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(piexif.dump(EXPOSURE).removeprefix(b"Exif\x00\x00"))
    images(root, "a.png", "trip/developed/b.jpg")
    return root


MADE: dict[str, Callable[[Path], Path]] = {
    "dpdd": dpdd,
    "realdof": realdof,
    "realbokeh_3mp": realbokeh,
    "lfdof": lfdof,
    "ebb": ebb,
    "focal_stacks": focal_stacks,
    "photographs": photographs,
    "photograph_table": table,
    "developed_raw": developed,
    "folder": photographs,
    "pairs": pairs,
}


def reasons(problems: list[tuple[str, Rejected]]) -> dict[str, Reason]:
    assert len({name for name, _ in problems}) == len(problems)
    return {name: rejected.reason for name, rejected in problems}


def files(item: Item, root: Path) -> dict[str, str]:
    return {role: one.path.relative_to(root).as_posix() for role, one in item.images.items()}


def declared(name: str, root: Path, **options) -> Source:
    """The source that ``conf/groups/source.yaml`` declares by that name."""
    given = [f"+source={name}", f"source.root='{root}'"]
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=given)
    return instantiate(config.source, _convert_="all", **options)
