"""Procedural scenes drawn as they are needed, for training the tiny base."""

import random
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import torch
from numpy.random import SeedSequence
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.examples import EvalExamples, Example
from datamodules.ordered import OrderedDataModule
from genrefocus.data.order import GlobalOrder
from genrefocus.render.scene import scene_aif
from genrefocus.render.tone import to_bytes
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES

_SET = "scenes"


@dataclass(frozen=True)
class SceneSet:
    """Scenes by number, as images.

    Attributes:
        split: of the seeds, which are disjoint over splits.
        count: scenes.
        size: edge of a scene in px.
        families: texture families.
        seed: of all scenes.
    """

    split: str
    count: int
    size: int
    families: tuple[str, ...]
    seed: int

    def image(self, number: int) -> tuple[Tensor, Tensor]:
        """Sharp sRGB image (3, size, size) in [0, 1], visible layer (size, size) int64.

        Drawn once in each process and kept, as the bytes that it is rounded to.
        """
        image, layers = _drawn(self, number)
        return image / 255.0, layers.long()


@lru_cache(maxsize=20_000)  # 37 kB each at 96 px
def _drawn(scenes: SceneSet, number: int) -> tuple[Tensor, Tensor]:
    """Both uint8."""
    entropy = scenes.seed, *scenes.split.encode(), number
    scene_seed = int(SeedSequence(entropy).generate_state(1, "uint64")[0])
    scene = procedural_scene(scene_seed, scenes.size, scenes.size, families=scenes.families)
    return to_bytes(scene_aif(scene)), scene.visible.to(torch.uint8)


class SceneDraws(Dataset[Example]):
    """Draw n of the order: a scene, cropped, mirrored and with its channels in another order.

    The latter two happen to every second draw; permuted channels multiply the palettes.
    """

    def __init__(self, scenes: SceneSet, crop: int, seed: int) -> None:
        self.scenes, self.crop = scenes, crop
        self.order = GlobalOrder({_SET: scenes.count}, {_SET: 1.0}, seed)

    def __getitem__(self, n: int) -> Example:
        draw = self.order.draw(n)
        image, layers = self.scenes.image(draw.index)
        # Of random.Random only random() is promised to stay the same over Python versions.
        rng = random.Random(draw.sample_seed)
        free = self.scenes.size - self.crop + 1
        top, left = int(rng.random() * free), int(rng.random() * free)
        image, layers = _cut(image, layers, top, left, self.crop)
        if rng.random() < 0.5:
            image, layers = image.flip(-1), layers.flip(-1)
        if rng.random() < 0.5:
            image = image[sorted(range(3), key=lambda _: rng.random())]
        return {"draw": n, "key": f"train-{draw.index:06d}", "image": image, "layers": layers}


class SceneEvaluation(EvalExamples):
    """All scenes of a set once, cropped about their centre."""

    def __init__(self, scenes: SceneSet, crop: int) -> None:
        self.scenes, self.crop = scenes, crop

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.scenes.count,)

    @property
    def names(self) -> tuple[str, ...]:
        return ("scenes with textures of their own",)

    def __getitem__(self, n: int) -> Example:
        offset = (self.scenes.size - self.crop) // 2
        image, layers = _cut(*self.scenes.image(n), offset, offset, self.crop)
        key = f"{self.scenes.split}-{n:06d}"
        return {"draw": n, "key": key, "image": image, "layers": layers}


class SceneDataModule(OrderedDataModule):
    """Images of procedural scenes with the layer that every pixel shows; nothing is on disk.

    Batches are dictionaries: key and draw (lists), image (B, 3, crop, crop) sRGB in [0, 1],
    layers (B, crop, crop) int64. Training has ``TRAIN_FAMILIES`` of textures, validation
    ``HELDOUT_FAMILIES``.

    Args:
        scenes: training scenes; each is drawn once an epoch.
        val_scenes: scenes for validation.
        size: edge of a scene in px.
        crop: edge of the square crop in px; random in training, central in validation.
        seed: of scenes, order and crops.
        loading: ``batch_size``, ``eval_batch_size`` and ``num_workers``; a scene of 96 px takes
            some 10 ms.

    Raises:
        ValueError: the crop is larger than the scenes.
    """

    def __init__(
        self,
        *,
        scenes: int,
        val_scenes: int,
        size: int,
        crop: int,
        seed: int,
        **loading: Any,
    ) -> None:
        super().__init__(seed=seed, **loading)
        if crop > size:
            raise ValueError(
                f"crop of {crop} px in scenes of {size} px; set crop to {size} or less"
            )
        self.crop = crop
        self.training = SceneSet("train", scenes, size, TRAIN_FAMILIES, seed)
        self.validation = SceneSet("val", val_scenes, size, HELDOUT_FAMILIES, seed)

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.draws = SceneDraws(self.training, self.crop, self.seed)
        self.validated = SceneEvaluation(self.validation, self.crop)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Split -> fingerprint of what its scenes are a function of."""
        sets = (self.training, self.validation)
        return {one.split: sha256(repr(one).encode()).hexdigest() for one in sets}

    def identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "scenes": self.training.count,
            "size": self.training.size,
            "crop": self.crop,
            "families": list(self.training.families),
        }

    def examples(self, count: int) -> Tensor:
        """Images (count, 3, crop, crop) of the first training scenes."""
        images = [self.training.image(number)[0] for number in range(count)]
        return torch.stack(images)[..., : self.crop, : self.crop]


def _cut(image: Tensor, layers: Tensor, top: int, left: int, side: int) -> tuple[Tensor, Tensor]:
    rows, columns = slice(top, top + side), slice(left, left + side)
    return image[:, rows, columns], layers[rows, columns]
