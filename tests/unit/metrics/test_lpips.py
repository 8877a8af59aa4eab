"""LPIPS: documented figures where the trunks are in place, and nothing downloaded where not."""

import math
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from genrefocus.metrics import lpips as module
from genrefocus.metrics.info import NotAvailable
from genrefocus.metrics.lpips import MIN_SIDE, lpips, lpips_available
from genrefocus.metrics.tally import Tally
from genrefocus.metrics.trunks import NETS, trunk_file

# Measured once, with trunks that gave the documented figures of LPIPS 0.1 for the example images of
# its repository: .722 and .138 for alex, .569 and .422 for vgg.
PATTERN = {"alex": [0.08427, 0.11458], "vgg": [0.05967, 0.31838]}

needs_trunks = pytest.mark.skipif(
    not all(lpips_available(net) for net in NETS),
    reason="metric weights are missing; run `genrefocus weights`",
)


@pytest.mark.parametrize("net", NETS)
def test_without_trunks_it_is_not_available_and_downloads_nothing(net, empty_torch_home) -> None:
    images = torch.rand(1, 3, 64, 64)
    assert not lpips_available(net)
    with pytest.raises(NotAvailable, match="run `genrefocus weights`"):
        lpips(images, images, net=net)


def test_the_files_looked_for_are_those_that_torchvision_would_load() -> None:
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    assert Path(AlexNet_Weights.IMAGENET1K_V1.url).name == trunk_file("alex").name
    assert Path(VGG16_Weights.IMAGENET1K_V1.url).name == trunk_file("vgg").name


def test_a_damaged_trunk_is_named(empty_torch_home: Path) -> None:
    file = trunk_file("alex")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a checkpoint")
    images = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"alexnet-owt-7be5be79\.pth is damaged"):
        lpips(images, images)


def test_an_unknown_trunk_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose one of alex, vgg"):
        lpips_available("squeeze")


@needs_trunks
@pytest.mark.parametrize(("net", "expected"), PATTERN.items())
def test_figures_of_trunks_that_gave_the_documented_ones(net, expected, pattern) -> None:
    reference, *distorted = pattern
    measured = [lpips(reference, image, net=net).item() for image in distorted]
    assert measured == pytest.approx(expected, abs=2e-4)


@needs_trunks
@pytest.mark.parametrize("net", NETS)
def test_it_equals_the_implementation_of_torchmetrics(net, pattern) -> None:
    reference, first, _ = pattern
    expected = learned_perceptual_image_patch_similarity(
        first, reference, net_type=net, normalize=True
    )
    torch.testing.assert_close(lpips(first, reference, net=net), expected.reshape(1))


@needs_trunks
def test_values_per_image_and_failures_counted(pattern) -> None:
    reference, first, second = pattern
    target = reference.expand(4, -1, -1, -1)
    pred = torch.cat([reference, first, second, torch.full_like(reference, math.nan)])
    values = lpips(pred, target)
    assert values[0].item() == pytest.approx(0.0, abs=1e-6)
    assert values.isfinite().tolist() == [True, True, True, False]
    torch.testing.assert_close(values[1:2], lpips(first, reference))
    metric = Tally(lpips)
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
def test_it_can_be_a_loss_after_evaluation(pattern) -> None:
    module._network.cache_clear()
    reference, first, _ = pattern
    with torch.inference_mode():
        lpips(first, reference)
    pred = first.clone().requires_grad_()
    lpips(pred, reference).sum().backward()
    assert pred.grad is not None
    assert pred.grad.abs().amax() > 0
