"""DISTS, CLIP-I, CLIP-IQA, pyiqa, FID and KID: against other code, and without their weights."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import deep_image_structure_and_texture_similarity
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from genrefocus.metrics.clip import PROMPTS, clip_iqa, clip_similarity, require_clip
from genrefocus.metrics.dists import dists
from genrefocus.metrics.fid_kid import INCEPTION_FILE, features, fid, kid, load_inception
from genrefocus.metrics.info import NotAvailable
from genrefocus.metrics.lpips import lpips_available
from genrefocus.metrics.no_reference import VARIANTS, no_reference
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
    # By another way: 8-bit pictures through Pillow, the forward of the whole model.
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


def test_clip_iqa_is_the_probability_of_the_first_prompt(
    network: nn.Module, clip_folder: Path
) -> None:
    from transformers import CLIPProcessor

    pred = images(3)
    pred[1, 0, 0, 0] = math.nan
    values = clip_iqa(pred, model=clip_folder)
    assert values.isnan().tolist() == [False, True, False]
    processor = CLIPProcessor.from_pretrained(clip_folder, local_files_only=True)
    inputs = processor(
        text=list(PROMPTS), images=list(pred[::2]), do_rescale=False, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        expected = network(**inputs).logits_per_image.softmax(-1)[:, 0]
    torch.testing.assert_close(values[::2], expected, rtol=1e-4, atol=1e-4)
    swapped = clip_iqa(pred, model=clip_folder, prompts=(PROMPTS[1], PROMPTS[0]))
    torch.testing.assert_close(values + swapped, torch.tensor([1.0, math.nan, 1.0]), equal_nan=True)


def test_a_clip_that_is_not_there_is_not_available(tmp_path: Path, clip_folder: Path) -> None:
    for missing in (tmp_path, "somebody/clip-of-nowhere"):
        with pytest.raises(NotAvailable, match=r"copy config\.json"):
            clip_similarity(images(1), images(1), model=missing)
    assert require_clip(clip_folder) == clip_folder / "model.safetensors"
    # transformers would make up what is missing beside the weights.
    for number, left_out in enumerate(({"vocab.json", "merges.txt"}, {"preprocessor_config.json"})):
        partial = tmp_path / str(number)
        partial.mkdir()
        for file in clip_folder.iterdir():
            if file.name not in left_out:
                (partial / file.name).symlink_to(file)
        with pytest.raises(NotAvailable, match=r"merges\.txt"):
            clip_iqa(images(1), model=partial)


# pyiqa


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_pyiqa_the_remedy_names_package_and_files(
    variant: str, empty_torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(NotAvailable, match="pip install pyiqa") as caught:
        no_reference(images(1), variant=variant)
    for file in VARIANTS[variant].files:
        assert str(empty_torch_home / "hub" / file) in str(caught.value)


def test_musiq_of_pyiqa_with_random_weights(empty_torch_home: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    from pyiqa.archs.musiq_arch import MUSIQ

    with pytest.raises(NotAvailable, match="copy what pyiqa downloads"):
        no_reference(images(1), variant="musiq-koniq")
    file = empty_torch_home / "hub" / VARIANTS["musiq-koniq"].files[0]
    file.parent.mkdir(parents=True)
    torch.save(MUSIQ(pretrained=False).state_dict(), file)
    pred = images(2, (64, 80))
    pred[1] = math.nan
    values = no_reference(pred, variant="musiq-koniq")
    assert METRICS["musiq-koniq"].implementation.startswith(f"pyiqa {pyiqa.__version__}, musiq")
    expected = pyiqa.create_metric("musiq")(pred[:1]).item()
    assert values.tolist() == pytest.approx([expected, math.nan], rel=1e-4, nan_ok=True)


# FID and KID


class Small(nn.Module):
    """A small random network: (B, 3, H, W) to (B, 6)."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.kernel = nn.Parameter(torch.randn(6, 3, 3, 3, generator=generator))

    def forward(self, pictures: Tensor) -> Tensor:
        return nn.functional.conv2d(pictures, self.kernel).relu().mean((2, 3))


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_fid_and_kid_equal_those_of_torchmetrics() -> None:
    network = Small()
    first, second = images(40), images(30, seed=1) ** 1.3
    pred, target = features(first, network), features(second, network)
    other = FrechetInceptionDistance(network, normalize=True)
    other_kid = KernelInceptionDistance(network, normalize=True, subsets=1, subset_size=30)
    for metric in (other, other_kid):
        metric.update(first if metric is other else first[:30], real=False)
        metric.update(second, real=True)
    assert fid(pred, target).item() == pytest.approx(other.compute().item(), rel=1e-4)
    same_size = kid(pred[:30], target).item()
    assert same_size == pytest.approx(other_kid.compute()[0].item(), rel=1e-3)


def test_fid_of_a_shift_is_its_square_and_kid_of_a_split_set_is_about_zero() -> None:
    cloud = torch.randn(500, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shifted = cloud + torch.tensor([0.0, 3.0, 0.0, 4.0])
    assert fid(cloud, shifted).item() == pytest.approx(25.0, rel=1e-9)
    assert fid(cloud, cloud).item() == pytest.approx(0.0, abs=1e-9)
    assert abs(kid(cloud[:250], cloud[250:]).item()) < 0.02 * kid(cloud, shifted).item()


@pytest.mark.parametrize("distance", [fid, kid])
def test_sets_give_the_same_figure_bit_for_bit_in_any_order(distance) -> None:
    pred, target = features(images(24), Small()), features(images(24, seed=1), Small())
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    assert torch.equal(distance(pred, target), distance(pred[order], target[order.flip(0)]))


def test_fid_without_its_network_and_wrong_use(
    empty_torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(NotAvailable, match="pip install torch-fidelity") as caught:
        load_inception()
    assert str(empty_torch_home / "hub/checkpoints" / INCEPTION_FILE) in str(caught.value)
    with pytest.raises(ValueError, match="two images at least"):
        fid(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="features must be"):
        kid(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="not finite"):
        features(images(1) * math.nan, Small())
