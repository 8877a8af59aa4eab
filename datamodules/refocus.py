"""Training and validation data for both networks, mixed from routes and exactly resumable."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.examples import LABELLED_ROUTE, EvalSamples, KLabel, KSource, TrainDraws
from datamodules.ordered import OrderedDataModule
from genrefocus.data.buckets import crops_of, least_edge
from genrefocus.data.order import GlobalOrder
from genrefocus.data.shards import INDEX_NAME, ShardDataset, require_crop
from genrefocus.preparation.ledger import SUMMARY_NAME, read_summary


class RefocusDataModule(OrderedDataModule):
    """Routes mixed by weight, in one global order; see :class:`OrderedDataModule`.

    Args:
        train: route name -> folder of its shards.
        weights: route name -> relative weight, >= 0; a route at 0 is not even opened.
        val: folders of shards, evaluated one after the other.
        val_samples: of each set in ``val``, spread over it, the same at every validation; None
            takes all.
        crop: edge of the square crop in px; random in training, central in evaluation.
        buckets: heights and widths of crops in its place, px: each sample has the one that is
            nearest to its proportions, and each micro-batch is of one. Micro-batches then belong to
            the order: a resumed run has the same ``batch_size``.
        seed: of the order, the crops and flips, and label noise.
        flip: mirror at random.
        fixed_crops: crop about the centre in training too, and mirror nothing: every epoch has the
            same images.
        limit: draw from the first samples of every route only, for overfitting and learning curves.
        k_label, k_deviation, k_constant: source of K of photographs, see ``examples.KLabel``.
        shape: batches show the shape of the aperture, for a network that is told it.
        min_mask_agreement: drop training samples whose estimated in-focus mask agrees less with
            the sharpness of the photograph (provenance ``mask_agreement``, 0 to 1).
        caption_rate: share of training draws that keep a sample's own prompt; the others are
            asked with the stage's. Drawn as crops are.
        loading: ``batch_size``, ``eval_batch_size`` and ``num_workers``.

    Batches are dictionaries: key, route, prompt, draw (lists); aif, bokeh and extras
    (B, 3, H, W) in [0, 1]; with ``shape`` also shape (B, 1, s, s); and, where all samples of a
    batch have them, disparity (B, 1, H, W) in 1/m, defocus (B, 1, H, W) in [0, 1], k (B,),
    focus_disparity (B,), radius (B,) in px.

    Raises:
        ValueError, FileNotFoundError: in ``setup``, for routes and folders that do not fit, and for
            a K label that was not measured.
    """

    def __init__(
        self,
        *,
        train: Mapping[str, str | Path],
        weights: Mapping[str, float],
        val: Sequence[str | Path],
        crop: int,
        seed: int,
        buckets: Sequence[Sequence[int]] | None = None,
        flip: bool = True,
        fixed_crops: bool = False,
        limit: int | None = None,
        k_label: KSource = "exif",
        k_deviation: float = 0.0,
        k_constant: float | None = None,
        min_mask_agreement: float | None = None,
        caption_rate: float = 1.0,
        shape: bool = False,
        val_samples: int | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(seed=seed, **loading)
        self.train_folders = {name: Path(folder) for name, folder in train.items()}
        self.weights = {name: float(weight) for name, weight in weights.items()}
        self.val_folders = _folders(val)
        self.crop, self.limit = crop, limit
        self.fixed_crops, self.mirror = fixed_crops, flip and not fixed_crops
        self.buckets = None if buckets is None else [(one[0], one[1]) for one in buckets]
        self.label = KLabel(k_label, k_deviation, k_constant, seed)
        self.min_mask_agreement, self.shape = min_mask_agreement, shape
        self.val_samples = val_samples
        if not 0 <= caption_rate <= 1:
            raise ValueError(f"caption_rate={caption_rate}: give a share of the draws, 0 to 1")
        self.caption_rate = caption_rate
        self.train_sets: dict[str, ShardDataset] = {}
        self.val_sets: list[ShardDataset] = []

    def setup(self, stage: str | None = None) -> None:
        """Open the shards that ``stage`` needs."""
        super().setup(stage)
        if self.label.source == "reblurred":
            self.label = replace(self.label, restored_radius=self._restored_radius())
        if stage in (None, "fit") and self.draws is None:
            self._open_train()
        if self.validated is None:
            self.val_sets = [self._opened(folder) for folder in self.val_folders]
            self.validated = EvalSamples(
                self.val_sets,
                crop=self.crop,
                buckets=self.buckets,
                label=self.label,
                most=self.val_samples,
                shape=self.shape,
            )

    @property
    def fingerprints(self) -> dict[str, str]:
        """Folder name of every opened set -> fingerprint of its content, for logs."""
        sets = [*self.train_sets.values(), *self.val_sets]
        return {"/".join(one.folder.parts[-2:]): one.fingerprint for one in sets}

    @property
    def depth(self) -> str | None:
        """Estimators of the depth in the opened training sets, by name."""
        settings = [one.parameters.get("settings", {}) for one in self.train_sets.values()]
        return ", ".join(sorted({one["depth"] for one in settings if one.get("depth")})) or None

    def prompts(self) -> set[str]:
        """Prompts that samples bring, in all sets that are there by now."""
        folders = [f for name, f in self.train_folders.items() if self.weights.get(name, 0) > 0]
        folders += self.val_folders
        sets = [ShardDataset(folder) for folder in folders if (folder / INDEX_NAME).is_file()]
        found = {one.metadata(n)["prompt"] for one in sets for n in range(len(one))}
        return {prompt for prompt in found if prompt}

    def identity(self) -> dict[str, Any]:
        """All that decides which sample a draw is, as plain data."""
        return {
            "seed": self.seed,
            "weights": {name: weight for name, weight in self.weights.items() if weight > 0},
            "limit": self.limit,
            "min_mask_agreement": self.min_mask_agreement,
            "caption_rate": self.caption_rate,
            "data": {name: one.fingerprint for name, one in self.train_sets.items()},
            "buckets": self.buckets,
            **({} if self.buckets is None else {"batch_size": self.batch_size}),
        }

    def _restored_radius(self) -> float | None:
        """What was measured of the photographs; None where none are used.

        Raises:
            ValueError: it was not measured, or could not be determined.
        """
        folder = self.train_folders.get(LABELLED_ROUTE)
        if folder is None:
            return None
        used = self.weights.get(LABELLED_ROUTE, 0) > 0
        if not used and folder.parent not in [one.parent for one in self.val_folders]:
            return None
        measured = read_summary(folder.parent).get("reblurred", {})
        if "restored_radius" not in measured:
            why = measured.get("rejected", "made without route.reblurred")
            raise ValueError(
                f"{folder.parent / SUMMARY_NAME} does not say how much blur the all-in-focus "
                f"images lack ({why}); prepare the photographs again, or set "
                "stages.bokehnet_semi_supervised.datamodule.k_label=exif"
            )
        return float(measured["restored_radius"])

    def _open_train(self) -> None:
        drawn = {name for name, weight in self.weights.items() if weight > 0}
        for name, folder in self.train_folders.items():
            if name in drawn:
                self.train_sets[name] = self._opened(folder)
        found = {
            name: crops_of(one, self._kept(name, one), self.crop, self.buckets)
            for name, one in self.train_sets.items()
        }
        kept = {name: list(crops) for name, crops in found.items()}
        crops = {name: list(own.values()) for name, own in found.items()}
        sizes = {name: len(indices) for name, indices in kept.items()}
        buckets, run = self.buckets or [(self.crop, self.crop)], 1
        if self.buckets is not None:
            assert self.batch_size is not None, "deal_out comes first"
            run = self.batch_size
        kinds = {name: bytes(map(buckets.index, own)) for name, own in crops.items()}
        order = GlobalOrder(sizes, self.weights, self.seed, run=run, kinds=kinds)
        self.draws = TrainDraws(
            self.train_sets,
            kept,
            order,
            crops=crops,
            label=self.label,
            mirror=self.mirror,
            fixed=self.fixed_crops,
            caption_rate=self.caption_rate,
            shape=self.shape,
        )

    def _opened(self, folder: Path) -> ShardDataset:
        one = ShardDataset(folder)
        require_crop(one, least_edge(self.crop, self.buckets))
        return one

    def _kept(self, name: str, one: ShardDataset) -> Sequence[int]:
        total = range(len(one) if self.limit is None else min(len(one), self.limit))
        least = self.min_mask_agreement
        if least is None:
            return total
        kept = [index for index in total if _agrees(one, index, least)]
        if total and not kept:
            raise ValueError(
                f"route {name}: none of {len(total)} samples in {one.folder} has a mask agreement "
                f"of {least}; lower data.min_mask_agreement"
            )
        return kept


def _folders(given: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(one) for one in ([given] if isinstance(given, str | Path) else given)]


def _agrees(one: ShardDataset, index: int, least: float) -> bool:
    """Whether a sample has no estimated mask, or one that agrees at least so much."""
    provenance = one.metadata(index)["provenance"]
    if "mask" not in provenance:
        return True
    if "mask_agreement" not in provenance:
        raise ValueError(
            f"sample {one.keys[index]} of {one.folder} does not say how well its mask agrees; "
            "prepare it again or unset data.min_mask_agreement"
        )
    return float(provenance["mask_agreement"]) >= least
