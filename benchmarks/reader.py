"""Samples a second from shards, beside plain files, the decoder alone and what training takes.

Everything is measured in turn in one run, on data made for it::

    python benchmarks/reader.py

A sample is a sharp image, its bokeh (8-bit colour) and a 16-bit disparity map; those of 64 px are
embedded data, with a third image. `decoder` is
Pillow alone on the sample's members in memory; `files` the same bytes as files in a folder, read
into the same ``Sample`` in the usual way; `shards` is ``ShardDataset``; `item` what training gets:
crop, mirror, floats, defocus map. Rates of one core are per second of processor time, those of
loaders per second of the clock.
"""

import argparse
import gc
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.examples import KLabel, TrainDraws, collate
from genrefocus.data.batches import TrainBatches
from genrefocus.data.order import GlobalOrder
from genrefocus.data.sample import ImageFormat, Sample, encode
from genrefocus.data.shards import ShardDataset, write_set
from genrefocus.embedded.sets import build_embedded
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import to_bytes
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene

CHECKOUT = Path(__file__).resolve().parents[1]
SUFFIX: dict[ImageFormat, str] = {"png": "png", "jpeg": "jpg"}
ROUTE, STAGE = "synthetic", "bokehnet_synthetic"
BATCH = 8
COUNTS = "{synthetic: {train: 16, val: 2, test: 2}, sweep: {val: 2, test: 2}}"


class FolderDataset:
    """The members of samples as plain files, read as one would without this library."""

    def __init__(self, folder: Path, image_format: ImageFormat) -> None:
        self.folder, self.suffix = folder, SUFFIX[image_format]
        self.keys = sorted(path.stem for path in folder.glob("*.json"))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        meta = json.loads((self.folder / f"{key}.json").read_text())
        levels = np.array(Image.open(self.folder / f"{key}.disparity.png")).astype(np.float64)
        exact = meta["disparity"]["offset"] + meta["disparity"]["scale"] * levels
        return Sample(
            key=key,
            route=meta["route"],
            split=meta["split"],
            aif=self._image(f"{key}.aif"),
            bokeh=self._image(f"{key}.bokeh"),
            disparity=torch.from_numpy(exact.astype(np.float32)),
            strength=BlurStrength(meta["k"], meta["height"], meta["width"]),
            focus_disparity=meta["focus_disparity"],
            extras={name: self._image(f"{key}.{name}") for name in meta["extras"]},
        )

    def _image(self, name: str) -> Tensor:
        pixels = np.array(Image.open(self.folder / f"{name}.{self.suffix}").convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class Case:
    """One set in both layouts, and the ways to read it."""

    def __init__(
        self, root: Path, samples: Sequence[Sample], image_format: ImageFormat, crop: int
    ) -> None:
        height, width = samples[0].size
        self.height, self.cropped = height, crop < height
        self.label = f"{height} x {width}" + (f", crop {crop}" if self.cropped else "")
        self.image_format = image_format
        self.encoded = [encode(sample, image_format) for sample in samples]
        shards, files = (root / f"{height}-{image_format}-{way}" for way in ("shards", "files"))
        files.mkdir()
        encoded = [(one.key, members) for one, members in zip(samples, self.encoded, strict=True)]
        write_set(shards, encoded, parameters={})
        for key, members in encoded:
            for extension, data in members.items():
                (files / f"{key}.{extension}").write_bytes(data)
        self.shards, self.files = ShardDataset(shards), FolderDataset(files, image_format)
        self.items = {"files": draws(self.files, crop), "shards": draws(self.shards, crop)}

    @property
    def kilobytes(self) -> float:
        return sum(len(data) for one in self.encoded for data in one.values()) / self.count / 1024

    @property
    def count(self) -> int:
        return len(self.encoded)

    def ways(self) -> dict[str, Callable[[int], object]]:
        """Name -> how to read sample ``n`` in this process."""
        return {
            "decoder": lambda n: decode_alone(self.encoded[n]),
            "files": self.files.__getitem__,
            "shards": self.shards.__getitem__,
            "item": self.items["shards"].__getitem__,
        }


def draws(dataset: Any, crop: int) -> TrainDraws:
    """Training's draws from either layout."""
    kept, order = range(len(dataset)), GlobalOrder({ROUTE: len(dataset)}, {ROUTE: 1.0}, 0)
    crops = {ROUTE: [(crop, crop)] * len(kept)}
    return TrainDraws(
        {ROUTE: dataset}, {ROUTE: kept}, order, crops=crops, label=KLabel(), mirror=True
    )


def decode_alone(members: Mapping[str, bytes]) -> None:
    """Decompress the images, and hand nothing on."""
    for extension, data in members.items():
        if extension != "json":
            Image.open(io.BytesIO(data)).load()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print two tables and the proportion to training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=4, help="of 512 px, a multiple of 4 (4)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds on one core (5)")
    parser.add_argument(
        "--samples", type=int, default=480, help="of 64 px that a loader gives (480)"
    )
    parser.add_argument(
        "--training",
        type=float,
        metavar="RATE",
        help="samples/s that training takes, as a summary.json says; else measured by a short run",
    )
    args = parser.parse_args(arguments)
    if args.scenes < 1 or args.scenes % 4:
        parser.error(f"--scenes {args.scenes} is no multiple of 4")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        step = args.training or training_rate(root)
        torch.set_num_threads(1)
        counts = {"synthetic": {"train": 64}}
        build_embedded(root / "small", seed=0, counts=counts, workers=0, progress=False)
        small = ShardDataset(root / "small" / "synthetic" / "train")
        scenes = [draw_sample(number, 512) for number in range(args.scenes)]
        sizes = [([small[n] for n in range(len(small))], 64), (scenes, 512), (mosaics(scenes), 512)]
        formats: tuple[ImageFormat, ...] = ("png", "jpeg")
        cases = [Case(root, samples, form, crop) for samples, crop in sizes for form in formats]
        cores = [one_core(case, args.repeats) for case in cases]
        print(f"a training step at 64 px takes {step:.1f} samples/s")
        print(f"one core makes {cores[0]['item'] / step:.1f} times the items for it")
        for row in cores:
            row["shards / decoder"] = row["shards"] / row["decoder"]
            row["shards / files"] = row["shards"] / row["files"]
        report("one core", cases, cores)
        whole = [case for case in cases if not case.cropped]
        report("loaders, batches of 8", whole, [loader_rates(case, args) for case in whole])
    return 0


def training_rate(root: Path) -> float:
    """Samples a second that BokehNet's training at the embedded scale consumes, loading left out.

    A short run of its own, with all cores, on data of its own.
    """
    command = [
        *(sys.executable, "train.py", "experiment=bokeh_synthetic"),
        *(f"data.root={root}/embedded", f"+data.build.counts={COUNTS}"),
        f"hydra.run.dir={root}/run",
        f"stages.{STAGE}.fit.max_steps=60",
        f"stages.{STAGE}.fit.val_check_interval=60",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    [summary] = (root / "run").rglob(f"{STAGE}/summary.json")
    return float(json.loads(summary.read_text())["samples_per_second"])


def draw_sample(number: int, size: int) -> Sample:
    """A procedural scene through a lens that is sampled at few positions."""
    rng = np.random.default_rng(number)
    scene = procedural_scene(number, size, size)
    focus = draw_focus(scene, rng)
    strength = draw_strength(scene, focus, rng, low=size / 64, high=size / 16)
    positions = disk().positions(64)
    bokeh = render_lens(scene, focus_disparity=focus, strength=strength, positions=positions)
    return Sample(
        key=f"s{number:04d}",
        route=ROUTE,
        split="train",
        aif=to_bytes(scene_aif(scene)),
        bokeh=to_bytes(bokeh),
        disparity=scene_disparity(scene),
        strength=strength,
        focus_disparity=focus,
    )


def mosaics(samples: Sequence[Sample]) -> list[Sample]:
    """Every four samples as one of twice the size: images as heavy, at no rendering."""

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.cat(list(parts[:2]), -1), torch.cat(list(parts[2:]), -1)], -2)

    found = []
    for first in range(0, len(samples), 4):
        four = samples[first : first + 4]
        aif = joined([one.aif for one in four])
        disparities = [one.disparity for one in four if one.disparity is not None]
        found.append(
            Sample(
                key=four[0].key,
                route=ROUTE,
                split="train",
                aif=aif,
                bokeh=joined([one.bokeh for one in four]),
                disparity=joined(disparities),
                strength=BlurStrength(10.0, aif.shape[-2], aif.shape[-1]),
                focus_disparity=0.5,
            )
        )
    return found


def one_core(case: Case, repeats: int) -> dict[str, float]:
    """Way of reading -> samples per second of processor time, the median of rounds in turn."""
    ways = case.ways()
    times: dict[str, list[float]] = {name: [] for name in ways}
    reads = max(case.count, 16)
    for repeat in range(repeats + 1):
        for name, read in ways.items():
            gc.collect()
            started = time.process_time()
            for n in range(reads):
                read(n % case.count)
            if repeat:  # the first warms caches and imports
                times[name].append((time.process_time() - started) / reads)
    return {name: 1 / statistics.median(seconds) for name, seconds in times.items()}


def loader_rates(case: Case, args: argparse.Namespace) -> dict[str, float]:
    """Layout and workers -> samples per second of the clock, the median of three rounds in turn."""
    count = max(args.samples * 64 // case.height, 96)
    times: dict[str, list[float]] = {}
    for _ in range(3):
        for name, items in case.items.items():
            for workers in (0, 2):
                batches = TrainBatches(0, count // BATCH, 0, BATCH, 0, 1)
                loader = DataLoader(
                    items, batch_sampler=batches, collate_fn=collate, num_workers=workers
                )
                loaded = iter(loader)
                next(loaded)  # workers have started
                started = time.perf_counter()
                seen = sum(len(batch["key"]) for batch in loaded)
                times.setdefault(f"{name}, {workers} workers", []).append(
                    (time.perf_counter() - started) / seen
                )
    return {name: 1 / statistics.median(seconds) for name, seconds in times.items()}


def report(title: str, cases: Sequence[Case], rates: Sequence[Mapping[str, float]]) -> None:
    """A row a case, with the size of an encoded sample."""
    table = Table(title=f"samples/s: {title}")
    for column in ("pixels", "images", "KiB", *rates[0]):
        table.add_column(column, justify="right")
    for case, row in zip(cases, rates, strict=True):
        figures = [f"{rate:.2f}" if "/" in name else f"{rate:.0f}" for name, rate in row.items()]
        table.add_row(case.label, case.image_format, f"{case.kilobytes:.0f}", *figures)
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
