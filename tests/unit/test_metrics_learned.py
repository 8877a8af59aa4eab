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

from genrefocus.metrics.clip_iqa import PROMPTS, ClipIQA, clip_iqa
from genrefocus.metrics.clip_similarity import (
    Clip,
    ClipSimilarity,
    clip_similarity,
    load_clip,
    require_clip,
)
from genrefocus.metrics.dists import DISTS, dists
from genrefocus.metrics.fid_kid import FID, KID, fid, inception_file, kid, load_inception
from genrefocus.metrics.lpips import NotAvailable, lpips_available
from genrefocus.metrics.no_reference import (
    VARIANTS,
    NoReference,
    no_reference,
    require_no_reference,
    weight_files,
)
from genrefocus.metrics.verification import pattern

needs_vgg = pytest.mark.skipif(
    not lpips_available("vgg"), reason="metric weights are missing; run `genrefocus weights`"
)


@pytest.fixture
def empty_torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TORCH_HOME without weights, where any attempt to download is an error."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a download was attempted")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    return tmp_path


def images(count: int, size: tuple[int, int] = (40, 56), seed: int = 0) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


# DISTS


@needs_vgg
def test_dists_equals_the_function_of_torchmetrics_image_by_image() -> None:
    reference, first, second = pattern()
    pred = torch.cat([first, second, reference, first * math.nan])
    target = reference.expand(4, -1, -1, -1)
    values = dists(pred, target)
    expected = deep_image_structure_and_texture_similarity(pred[:2], target[:2])
    torch.testing.assert_close(values[:2], expected.detach())
    assert values[2].item() == pytest.approx(0.0, abs=1e-5)
    assert values[3].isnan()
    metric = DISTS()
    metric.update(pred, target)
    assert [x.item() for x in metric.compute()[1:]] == [3, 1]
    assert dict(metric.state_dict()) == {}
    assert list(metric.parameters()) == []


@needs_vgg
def test_dists_wants_images_that_its_layers_can_halve() -> None:
    assert dists(images(1, (16, 16)), images(1, (16, 16), 1)).isfinite().all()
    with pytest.raises(ValueError, match="too small"):
        dists(images(1, (15, 20)), images(1, (15, 20)))


def test_dists_without_its_trunk_is_not_available(empty_torch_home: Path) -> None:
    for attempt in (lambda: dists(images(1), images(1)), DISTS):
        with pytest.raises(NotAvailable, match=r"DISTS .* run `genrefocus weights`"):
            attempt()


# CLIP


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Clip:
    return load_clip(clip_folder)


def test_clip_i_is_the_cosine_of_the_projected_embeddings(clip: Clip, clip_folder: Path) -> None:
    pred, target = images(3), images(3, seed=1)
    pred[2] = math.inf
    values = clip_similarity(pred, target, clip=clip)
    assert values.isnan().tolist() == [False, False, True]
    assert clip_similarity(target, target, clip=clip).tolist() == pytest.approx([1.0] * 3, rel=1e-5)
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
            return clip.network(**inputs).image_embeds[0]

    expected = [float(vector(a) @ vector(b)) for a, b in zip(pred[:2], target[:2], strict=True)]
    assert values[:2].tolist() == pytest.approx(expected, abs=5e-3)
    metric = ClipSimilarity(clip)
    metric.update(pred, target)
    assert [x.item() for x in metric.compute()[1:]] == [2, 1]
    assert dict(metric.state_dict()) == {}
    assert list(metric.parameters()) == []


def test_clip_iqa_is_the_probability_of_the_first_prompt(clip: Clip, clip_folder: Path) -> None:
    from transformers import CLIPProcessor

    pred = images(3)
    pred[1, 0, 0, 0] = math.nan
    values = clip_iqa(pred, clip=clip)
    assert values.isnan().tolist() == [False, True, False]
    processor = CLIPProcessor.from_pretrained(clip_folder, local_files_only=True)
    inputs = processor(
        text=list(PROMPTS), images=list(pred[::2]), do_rescale=False, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        expected = clip.network(**inputs).logits_per_image.softmax(-1)[:, 0]
    torch.testing.assert_close(values[::2], expected, rtol=1e-4, atol=1e-4)
    swapped = clip_iqa(pred, clip=clip, prompts=(PROMPTS[1], PROMPTS[0]))
    torch.testing.assert_close(values + swapped, torch.tensor([1.0, math.nan, 1.0]), equal_nan=True)
    metric = ClipIQA(clip)
    metric.update(pred)
    assert [x.item() for x in metric.compute()[1:]] == [2, 1]


def test_a_clip_that_is_not_there_is_not_available(tmp_path: Path, clip_folder: Path) -> None:
    for missing in (tmp_path, "somebody/clip-of-nowhere"):
        for attempt in (load_clip, require_clip):
            with pytest.raises(NotAvailable, match=r"copy config\.json"):
                attempt(missing)
    assert require_clip(clip_folder) == clip_folder / "model.safetensors"
    # transformers would make up what is missing beside the weights.
    for number, left_out in enumerate(({"vocab.json", "merges.txt"}, {"preprocessor_config.json"})):
        partial = tmp_path / str(number)
        partial.mkdir()
        for file in clip_folder.iterdir():
            if file.name not in left_out:
                (partial / file.name).symlink_to(file)
        with pytest.raises(NotAvailable, match=r"merges\.txt"):
            clip_iqa(images(1), clip=load_clip(partial))


# pyiqa


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_pyiqa_the_remedy_names_package_and_files(
    variant: str, empty_torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    for attempt in (
        lambda: no_reference(images(1), variant=variant),
        lambda: NoReference(variant),
    ):
        with pytest.raises(NotAvailable, match="pip install pyiqa") as caught:
            attempt()
        assert all(str(file) in str(caught.value) for file in weight_files(variant))
    assert all(file.is_relative_to(empty_torch_home / "hub") for file in weight_files(variant))


def test_an_unknown_variant_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose one of musiq-koniq"):
        require_no_reference("musiq")


def test_musiq_of_pyiqa_with_random_weights(empty_torch_home: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    from pyiqa.archs.musiq_arch import MUSIQ

    with pytest.raises(NotAvailable, match="copy what pyiqa downloads"):
        NoReference("musiq-koniq")
    (file,) = weight_files("musiq-koniq")
    file.parent.mkdir(parents=True)
    torch.save(MUSIQ(pretrained=False).state_dict(), file)
    pred = images(2, (64, 80))
    pred[1] = math.nan
    metric = NoReference("musiq-koniq")
    metric.update(pred)
    assert metric.name == f"musiq-koniq (pyiqa {pyiqa.__version__})"
    mean, valid, failed = metric.compute()
    assert mean.item() == pytest.approx(pyiqa.create_metric("musiq")(pred[:1]).item(), rel=1e-4)
    assert (valid.item(), failed.item()) == (1, 1)


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
    with torch.no_grad():
        features = network(first), network(second)
    other = FrechetInceptionDistance(network, normalize=True)
    other_kid = KernelInceptionDistance(network, normalize=True, subsets=1, subset_size=30)
    for metric in (other, other_kid):
        metric.update(first if metric is other else first[:30], real=False)
        metric.update(second, real=True)
    assert fid(*features).item() == pytest.approx(other.compute().item(), rel=1e-4)
    same_size = kid(features[0][:30], features[1]).item()
    assert same_size == pytest.approx(other_kid.compute()[0].item(), rel=1e-3)


def test_fid_of_a_shift_is_its_square_and_kid_of_a_split_set_is_about_zero() -> None:
    cloud = torch.randn(500, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shifted = cloud + torch.tensor([0.0, 3.0, 0.0, 4.0])
    assert fid(cloud, shifted).item() == pytest.approx(25.0, rel=1e-9)
    assert fid(cloud, cloud).item() == pytest.approx(0.0, abs=1e-9)
    assert abs(kid(cloud[:250], cloud[250:]).item()) < 0.02 * kid(cloud, shifted).item()


@pytest.mark.parametrize("kind", [FID, KID])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_sets_give_the_same_figure_however_dealt_out(kind) -> None:
    network = Small()
    pred, target = images(24), images(24, seed=1)
    whole = kind(network)
    whole.update(pred, target)
    ranks = [kind(network), kind(network)]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    for number, part in enumerate(order.split([5, 11, 8])):
        ranks[number % 2].update(pred[part], target[part.flip(0)])
    ranks[1].merge_state(ranks[0])
    # One image at a time: what a network gives may depend on the batch in the last bits.
    alone = kind(network)
    for i in range(24):
        alone.update(pred[i : i + 1], target[i : i + 1])
    shuffled = kind(network)
    for i in order.tolist():
        shuffled.update(pred[i : i + 1], target[i : i + 1])
    assert torch.equal(alone.compute(), shuffled.compute()), "bit for bit"
    assert ranks[1].compute().item() == pytest.approx(whole.compute().item(), rel=1e-4, abs=1e-6)
    assert dict(whole.state_dict()) == {}
    assert list(whole.parameters()) == []


def test_fid_without_its_network_and_wrong_use(
    empty_torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    for attempt in (load_inception, FID, KID):
        with pytest.raises(NotAvailable, match="pip install torch-fidelity") as caught:
            attempt()
        assert str(inception_file()) in str(caught.value)
    with pytest.raises(ValueError, match="two images at least"):
        fid(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="features must be"):
        kid(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="not finite"):
        FID(Small()).update(images(1) * math.nan, images(1))
