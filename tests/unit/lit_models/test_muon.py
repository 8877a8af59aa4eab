"""Muon against the polar factor by SVD, and torch's Adam."""

import pytest
import torch
from torch import nn

from lit_models.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_orthogonalised_is_near_the_polar_factor(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    (found,) = orthogonalised([matrix])
    singular = torch.linalg.svdvals(found)
    assert singular.min() > 0.6 and singular.max() < 1.3
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), (u @ vh).flatten(), dim=0)
    assert cosine > 0.97


def test_vectors_move_as_by_adamw() -> None:
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    own, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"betas": (0.9, 0.99), "weight_decay": 0.01}
    optimizers = (
        Muon([own], lr=0.05, **settings),
        torch.optim.AdamW([theirs], lr=0.05, **settings),
    )
    for _ in range(5):
        for one, optimizer in zip((own, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (one.square() * torch.arange(5.0)).sum().backward()
            optimizer.step()
    torch.testing.assert_close(own, theirs)


def test_a_convolution_moves_as_far_in_all_directions() -> None:
    """However small the gradient of a direction is: the root mean square is 0.2 of the rate."""
    kernel = nn.Parameter(torch.zeros(4, 3, 3, 3))
    scale = torch.tensor([1.0, 1e-2, 1e-1, 3.0]).view(4, 1, 1, 1)
    gradient = scale * torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    kernel.grad = gradient
    Muon([kernel], lr=0.02, convolution_rate=5.0, weight_decay=0.0).step()
    rms = kernel.detach().square().mean((1, 2, 3)).sqrt()
    assert float(rms.min() / rms.max()) > 0.6, rms
    assert rms.mean() == pytest.approx(0.1 * 0.2, rel=0.25)
    assert (kernel.detach() * gradient).sum() < 0


def test_momentum_is_kept_in_a_checkpoint() -> None:
    """Three steps, with and without a stop after the second."""
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(4, 6, generator=generator), torch.randn(3, 4, 6)
    whole, resumed = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    first, second = Muon([whole], lr=0.02), Muon([resumed], lr=0.02)
    for number, gradient in enumerate(gradients):
        whole.grad, resumed.grad = gradient, gradient
        if number == 2:
            state = second.state_dict()
            second = Muon([resumed], lr=0.02)
            second.load_state_dict(state)
        first.step()
        second.step()
    assert torch.equal(whole, resumed)


def test_what_a_batch_does_not_use_stays() -> None:
    kernel, bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4))
    optimizer = Muon([kernel, bias], lr=0.1)
    for one in (kernel, bias):
        one.grad = torch.ones_like(one)
    optimizer.step()
    before = kernel.detach().clone(), bias.detach().clone()
    for one in (kernel, bias):
        one.grad = torch.zeros_like(one)
    optimizer.step()
    assert torch.equal(kernel, before[0]) and torch.equal(bias, before[1])
