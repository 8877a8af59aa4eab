"""LVCorr against numpy and scipy, closed forms, and a series that says nothing."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, laplace

from genrefocus.metrics.lvcorr import (
    PROTOCOL_K,
    laplacian_variance,
    lvcorr,
    lvcorr_of_images,
)
from genrefocus.metrics.tally import Tally


def test_it_is_the_negated_correlation_of_numpy() -> None:
    variances = torch.rand(20, 4, generator=torch.Generator().manual_seed(1))
    expected = [-np.corrcoef(PROTOCOL_K, row.double().numpy())[0, 1] for row in variances]
    torch.testing.assert_close(lvcorr(variances, PROTOCOL_K), torch.tensor(expected).float())


def test_sign_and_scale() -> None:
    k = torch.tensor(PROTOCOL_K)
    obedient = 20.0 - k
    series = torch.stack([obedient, 1e-12 * obedient, k, 3.0 + 0.5 * obedient])
    torch.testing.assert_close(lvcorr(series, k), torch.tensor([1.0, 1.0, -1.0, 1.0]))


def test_laplacian_variance_equals_scipy() -> None:
    images = torch.rand(2, 3, 3, 40, 30, generator=torch.Generator().manual_seed(2))
    grey = np.tensordot(images.double().numpy(), [0.299, 0.587, 0.114], axes=([2], [0]))
    expected = [[laplace(one, mode="mirror").var() for one in scene] for scene in grey]
    torch.testing.assert_close(laplacian_variance(images), torch.tensor(expected).float())


def test_laplacian_variance_of_a_checkerboard() -> None:
    # Luma alternates between 0 and 1, so the Laplacian alternates between 4 and -4.
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = ((rows + columns) % 2).float().expand(3, 8, 8)
    assert laplacian_variance(board).item() == pytest.approx(16.0, rel=1e-5)


@pytest.mark.parametrize(
    "series",
    [[0.3] * 4, [0.0] * 4, [0.3, 0.3 + 3e-8, 0.3, 0.3 - 3e-8], [1, math.nan, 3, 4], [math.inf] * 4],
)
def test_a_series_without_a_response_fails(series: list[float]) -> None:
    assert lvcorr(torch.tensor([series]), PROTOCOL_K).isnan().all()


def test_the_metric_rates_blur_that_grows_and_counts_a_model_that_ignores_k() -> None:
    sharp = np.random.default_rng(0).random((3, 64, 64))
    growing = [gaussian_filter(sharp, (0, 0.1 * k, 0.1 * k)) for k in PROTOCOL_K]
    obedient = torch.tensor(np.stack(growing)).float()
    deaf = obedient[:1].expand_as(obedient)
    metric = Tally(lvcorr_of_images)
    metric.update(torch.stack([obedient, deaf, obedient.flip(0)]))
    by_hand = lvcorr(laplacian_variance(obedient)[None], PROTOCOL_K).item()
    assert 0.5 < by_hand <= 1.0
    mean, valid, failed = metric.compute()
    flipped = lvcorr(laplacian_variance(obedient.flip(0))[None], PROTOCOL_K).item()
    assert flipped < 0
    assert mean.item() == pytest.approx((by_hand + flipped) / 2, abs=1e-5)
    assert (valid.item(), failed.item()) == (2, 1)


def test_wrong_input_is_an_error() -> None:
    with pytest.raises(ValueError, match="variances must have shape"):
        lvcorr(torch.rand(2, 3), PROTOCOL_K)
    with pytest.raises(ValueError, match="at least two values"):
        lvcorr(torch.rand(2, 2), [5, 5])
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, H, W\)"):
        laplacian_variance(torch.rand(4, 1, 8, 8))
    with pytest.raises(ValueError, match=r"not \(2, 3\) for 4"):
        lvcorr_of_images(torch.rand(2, 3, 3, 8, 8))
