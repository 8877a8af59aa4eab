"""DISTS, CLIP-I and pyiqa: against other code, and without their weights."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import deep_image_structure_and_texture_similarity

from genrefocus.metrics.clip import clip_similarity, require_clip
from genrefocus.metrics.dists import dists
from genrefocus.metrics.info import NotAvailable
from genrefocus.metrics.lpips import lpips_available
from genrefocus.metrics.no_reference import NETWORKS, no_reference
from genrefocus.metrics.registry import METRICS

needs_vgg = pytest.mark.skipif(
    not lpips_available("vgg"), reason="metric weights are missing; run `genrefocus weights`"
)


def images(count: int, size: tuple[int, int] = (40, 56), seed: int = 0) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


# DISTS


@needs_vgg
def test_dists_equals_the_function_of_torchmetrics_image_by_image(pattern) -> None:
    reference, first, second = pattern
    pred = torch.cat([first, second, reference, first * math.nan])
    target = reference.expand(4, -1, -1, -1)
    values = dists(pred, target)
    expected = deep_image_structure_and_texture_similarity(pred[:2], target[:2])
    torch.testing.assert_close(values[:2], expected.detach())
    assert values[2].item() == pytest.approx(0.0, abs=1e-5)
    assert values[3].isnan()


@needs_vgg
def test_dists_has_the_figure_that_torchmetrics_documents() -> None:
    """The first of the five pairs in the docstring of its DISTS."""
    generator = torch.Generator().manual_seed(42)
    first, second = (torch.rand(5, 3, 256, 256, generator=generator) for _ in range(2))
    assert dists(first[:1], second[:1]).item() == pytest.approx(0.1285, abs=2e-4)


@needs_vgg
def test_dists_wants_images_that_its_layers_can_halve() -> None:
    assert dists(images(1, (16, 16)), images(1, (16, 16), 1)).isfinite().all()
    with pytest.raises(ValueError, match="too small"):
        dists(images(1, (15, 20)), images(1, (15, 20)))


def test_dists_without_its_trunk_is_not_available(empty_torch_home: Path) -> None:
    with pytest.raises(NotAvailable, match=r"DISTS .* run `genrefocus weights`"):
        dists(images(1), images(1))


# CLIP


@pytest.fixture(scope="module")
def network(clip_folder: Path) -> nn.Module:
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(clip_folder, local_files_only=True)


def test_clip_i_is_the_cosine_of_the_projected_embeddings(
    network: nn.Module, clip_folder: Path
) -> None:
    pred, target = images(3), images(3, seed=1)
    pred[2] = math.inf
    values = clip_similarity(pred, target, model=clip_folder)
    assert values.isnan().tolist() == [False, False, True]
    assert clip_similarity(target, target, model=clip_folder).tolist() == pytest.approx(
        [1.0] * 3, rel=1e-5
    )
    # By another way: 8-bit images through Pillow, the forward of the whole model.
    from PIL import Image
    from transformers import CLIPProcessor

    def vector(image: Tensor) -> Tensor:
        rounded = (image * 255).round().byte().permute(1, 2, 0).numpy()
        processor = CLIPProcessor.from_pretrained(clip_folder, local_files_only=True)
        inputs = processor(
            text=["a"], images=Image.fromarray(rounded), return_tensors="pt", padding=True
        )
        with torch.no_grad():
            return network(**inputs).image_embeds[0]

    expected = [float(vector(a) @ vector(b)) for a, b in zip(pred[:2], target[:2], strict=True)]
    assert values[:2].tolist() == pytest.approx(expected, abs=5e-3)


def test_a_clip_that_is_not_there_is_not_available(tmp_path: Path, clip_folder: Path) -> None:
    for missing in (tmp_path, "somebody/clip-of-nowhere"):
        with pytest.raises(NotAvailable, match="hf download"):
            clip_similarity(images(1), images(1), model=missing)
    assert require_clip(clip_folder) == clip_folder / "model.safetensors"
    # transformers would make up what is missing beside the weights.
    for file in clip_folder.iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(NotAvailable, match="hf download"):
        require_clip(tmp_path)


# pyiqa


@pytest.mark.parametrize("variant", NETWORKS)
def test_without_pyiqa_the_remedy_names_package_and_files(
    variant: str, empty_torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(NotAvailable, match="pip install pyiqa") as caught:
        no_reference(images(1), variant=variant)
    for file in NETWORKS[variant].files:
        assert str(empty_torch_home / "hub" / file) in str(caught.value)


def test_musiq_of_pyiqa_with_random_weights(empty_torch_home: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    from pyiqa.archs.musiq_arch import MUSIQ

    with pytest.raises(NotAvailable, match="copy what pyiqa downloads"):
        no_reference(images(1), variant="musiq")
    file = empty_torch_home / "hub" / NETWORKS["musiq"].files[0]
    file.parent.mkdir(parents=True)
    torch.save(MUSIQ(pretrained=False).state_dict(), file)
    pred = images(2, (64, 80))
    pred[1] = math.nan
    values = no_reference(pred, variant="musiq")
    assert METRICS["musiq"].implementation.startswith(f"pyiqa {pyiqa.__version__}, musiq")
    expected = pyiqa.create_metric("musiq")(pred[:1]).item()
    assert values.tolist() == pytest.approx([expected, math.nan], rel=1e-4, nan_ok=True)
