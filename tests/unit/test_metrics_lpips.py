"""LPIPS: documented figures where the trunks are in place, and nothing downloaded where not."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from genrefocus.metrics import lpips as module
from genrefocus.metrics.lpips import (
    LPIPS,
    MIN_SIDE,
    NETS,
    TRUNK_FILES,
    NotAvailable,
    lpips,
    lpips_available,
)
from genrefocus.metrics.verification import pattern, verify

needs_trunks = pytest.mark.skipif(
    not all(lpips_available(net) for net in NETS),
    reason="metric weights are missing; run `genrefocus weights`",
)


@pytest.fixture
def empty_torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TORCH_HOME without weights, where any attempt to download is an error."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a download was attempted")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    yield tmp_path


@pytest.mark.parametrize("net", NETS)
def test_without_trunks_it_is_not_available_and_downloads_nothing(net, empty_torch_home) -> None:
    images = torch.rand(1, 3, 64, 64)
    assert not lpips_available(net)
    for attempt in (lambda: lpips(images, images, net=net), lambda: LPIPS(net)):
        with pytest.raises(NotAvailable, match="run `genrefocus weights`"):
            attempt()


def test_the_files_looked_for_are_those_that_torchvision_would_load() -> None:
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    assert Path(AlexNet_Weights.IMAGENET1K_V1.url).name == TRUNK_FILES["alex"]
    assert Path(VGG16_Weights.IMAGENET1K_V1.url).name == TRUNK_FILES["vgg"]


def test_a_damaged_trunk_is_named(empty_torch_home: Path) -> None:
    file = module.trunk_file("alex")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a checkpoint")
    images = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"alexnet-owt-7be5be79\.pth is damaged"):
        lpips(images, images)


def test_an_unknown_trunk_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose one of alex, vgg"):
        lpips_available("squeeze")


@needs_trunks
def test_documented_figures() -> None:
    checks = verify()
    assert {check.net for check in checks} == set(NETS)
    assert [check for check in checks if not check.passed] == []


@needs_trunks
@pytest.mark.parametrize("net", NETS)
def test_it_equals_the_implementation_of_torchmetrics(net) -> None:
    reference, first, _ = pattern()
    expected = learned_perceptual_image_patch_similarity(
        first, reference, net_type=net, normalize=True
    )
    torch.testing.assert_close(lpips(first, reference, net=net), expected.reshape(1))


@needs_trunks
def test_values_per_image_and_failures_counted() -> None:
    reference, first, second = pattern()
    target = reference.expand(4, -1, -1, -1)
    pred = torch.cat([reference, first, second, torch.full_like(reference, math.nan)])
    values = lpips(pred, target)
    assert values[0].item() == pytest.approx(0.0, abs=1e-6)
    assert values.isfinite().tolist() == [True, True, True, False]
    torch.testing.assert_close(values[1:2], lpips(first, reference))
    metric = LPIPS()
    metric.update(pred, target)
    mean, valid, failed = metric.compute()
    assert mean.item() == pytest.approx(values[:3].mean().item(), rel=1e-5)
    assert (valid.item(), failed.item()) == (3, 1)
    assert dict(metric.state_dict()) == {}, "the network must not enter checkpoints"
    assert list(metric.parameters()) == []


@needs_trunks
@pytest.mark.parametrize("net", NETS)
def test_the_smallest_image_is_the_smallest_that_the_network_takes(net) -> None:
    side = MIN_SIDE[net]
    images = torch.rand(2, 1, 3, side, side)
    assert lpips(*images, net=net).isfinite().all()
    with pytest.raises(ValueError, match="too small"):
        lpips(*images[..., 1:], net=net)


@needs_trunks
def test_it_can_be_a_loss_after_evaluation() -> None:
    module._network.cache_clear()
    reference, first, _ = pattern()
    with torch.inference_mode():
        lpips(first, reference)
    pred = first.clone().requires_grad_()
    lpips(pred, reference).sum().backward()
    assert pred.grad is not None
    assert pred.grad.abs().amax() > 0
