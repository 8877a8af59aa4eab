"""Networks of transformers: any for depth estimation, and BiRefNet (arXiv 2401.03407)."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import normalize

from genrefocus.estimators.protocols import InFocus, Photo
from genrefocus.estimators.scale import DepthKind, DepthScale
from genrefocus.geometry import resize_image

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and deviation of the channels of ImageNet, which many networks take for 0 and 1."""


class _Pretrained:
    """A network from a local folder, or from the hub at a commit.

    Args:
        model: local folder or hub id, such as ``apple/DepthPro-hf`` or ``ZhengPeng7/BiRefNet``.
        revision: commit of a hub id; needed for one.
        device: torch device.
        batch_size: images of one size at a time.

    Raises:
        ValueError: a hub id without revision.
        FileNotFoundError: it cannot be loaded.
    """

    holds_network = True
    what: str

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str = "cpu",
        batch_size: int = 1,
    ) -> None:
        if not (is_folder := Path(model).is_dir()) and not revision:
            raise ValueError(
                f"{self.what} model {model} is no local folder; to load it from the hub name the "
                "commit with its option revision=<commit>"
            )
        origin = f"from folder {Path(model).name}" if is_folder else f"{model}@{revision}"
        self.batch_size = batch_size
        try:
            self.model = self._load(str(model), {"revision": revision} if revision else {})
        except (OSError, ValueError) as error:  # the latter of a network of another kind
            first = str(error).strip().splitlines()[0]
            raise FileNotFoundError(
                f"{self.what} model {model} cannot be loaded ({first}); give a local folder with "
                "its files (its option model), or files beside the photographs"
            ) from error
        self.model = self.model.to(device).eval()
        self.name = f"{self._title()} {origin}"

    def _load(self, model: str, at: dict[str, str]) -> Any:
        raise NotImplementedError

    def _title(self) -> str:
        raise NotImplementedError

    def _batches(self, photos: Sequence[Photo]) -> Iterator[list[Photo]]:
        for _, alike in groupby(photos, key=lambda photo: photo.size):
            same = list(alike)
            for first in range(0, len(same), self.batch_size):
                yield same[first : first + self.batch_size]


class PretrainedDepth(_Pretrained):
    """Depth of the sharp image by any depth estimation network of transformers.

    Depth Pro (arXiv 2410.02073), Depth Anything, ZoeDepth, GLPN and DPT say themselves whether they
    answer metres.

    Args:
        model, revision, device, batch_size: of the network, see the base class.
        kind: of its answers, for a network that does not say it.
        range: metres that are assumed for relative answers; see :class:`DepthScale`.

    Raises:
        ValueError: also a kind that is not known, or another one than the network's; a range that
            is missing, or not needed; Depth Pro without a field-of-view head.
    """

    what = "depth"

    def __init__(
        self,
        model: str | Path,
        *,
        kind: DepthKind | None = None,
        range: Sequence[float] | None = None,
        **network: Any,
    ) -> None:
        super().__init__(model, **network)
        if self._title() == "depth_pro" and not self.model.use_fov_model:
            raise ValueError(f"{self.name} has no field-of-view head, so its depth is not metric")
        own = _kind_of(self.model.config)
        if None not in (own, kind) and own != kind:
            raise ValueError(f"{self.name} answers {own}, not {kind}; leave its kind out")
        self.scale = DepthScale.stated(self.name, own or kind, range)
        self.name = f"{self.name}, {self.scale}"

    def _load(self, model: str, at: dict[str, str]) -> Any:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        network = AutoModelForDepthEstimation.from_pretrained(model, **at)
        self.processor: Any = AutoImageProcessor.from_pretrained(model, **at)
        return network

    def _title(self) -> str:
        return str(self.model.config.model_type)

    @torch.inference_mode()
    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        maps: list[Tensor] = []
        for batch in self._batches(photos):
            images = [(photo.aif * 255).round().byte() for photo in batch]  # as files have them
            sizes = [photo.size for photo in batch]
            inputs = self.processor(images, return_tensors="pt")
            outputs = self.model(**inputs.to(self.model.device, self.model.dtype))
            padded = {"source_sizes": sizes} if self._title() == "zoedepth" else {}
            found = self.processor.post_process_depth_estimation(
                outputs, target_sizes=sizes, **padded
            )
            answers = [one["predicted_depth"].float().cpu().clone() for one in found]
            if self._title() != "depth_pro":  # which answers inverse depth, and bounds it
                # Cubic resizing overshoots at edges; depth below 0 would be infinitely far.
                ends = [one.float().cpu().aminmax() for one in outputs.predicted_depth]
                answers = [one.clamp(*end) for one, end in zip(answers, ends, strict=True)]
            maps += map(self.scale.metres, answers)
        return maps


def _kind_of(config: Any) -> DepthKind | None:
    """What a network answers by its configuration, or None where this does not say it."""
    if config.model_type in ("depth_pro", "glpn", "zoedepth"):
        return "metric"
    if config.model_type == "depth_anything":
        return "metric" if config.depth_estimation_type == "metric" else "relative_disparity"
    # DPT on DINOv2 was released for metres alone, the others by MiDaS.
    backbone = getattr(config, "backbone_config", None)
    if config.model_type == "dpt" and getattr(backbone, "model_type", "") != "dinov2":
        return "relative_disparity"
    return None


class BiRefNet(_Pretrained):
    """BiRefNet: a mask of the salient object in the photograph, which need not be in focus.

    Its code comes with its weights from the hub and is run, so the revision is required.
    """

    what = "mask"
    size = 1024  # px that images are scaled to, as the network was trained

    def _load(self, model: str, at: dict[str, str]) -> Any:
        from transformers import AutoModelForImageSegmentation

        at = at | {"code_revision": at["revision"]} if at else {}
        return AutoModelForImageSegmentation.from_pretrained(
            model, trust_remote_code=True, dtype=torch.float32, **at
        )

    def _title(self) -> str:
        return "BiRefNet"

    @torch.inference_mode()
    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        masks: list[InFocus] = []
        for batch in self._batches(photos):
            square = [resize_image(photo.image, self.size, self.size) for photo in batch]
            # It answers with one map of logits per decoder stage, the finest last.
            images = normalize(torch.stack(square), *IMAGENET)
            logits = self.model(images.to(self.model.device))[-1]
            for photo, one in zip(batch, logits.float().sigmoid().cpu(), strict=True):
                found = interpolate(one[None], photo.size, mode="bilinear", align_corners=False)
                masks.append(InFocus(found[0, 0] >= 0.5, self.name))
        return masks
