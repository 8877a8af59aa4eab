"""Muon, an optimiser for matrices, in single precision."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_QUINTIC = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5  # of the quintic pull all singular values to about 1
_EPS = 1e-8


class Muon(Optimizer):
    """Matrices and convolutions move along their orthogonalised momentum, vectors as by Adam.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; a step is as
    long as one of AdamW, see Liu et al., arXiv 2502.16982. The Muon of torch and of timm
    orthogonalises in bf16, which makes it several times slower on processors without bf16 units.

    Args:
        params: parameters; a convolution is a matrix of (channels out, everything else).
        lr: learning rate, as for AdamW.
        matrix_rate, convolution_rate: learning rates of matrices, and of convolutions wider than
            1 px, in parts of ``lr``.
        momentum: of matrices (Nesterov).
        betas: of vectors.
        weight_decay: of all, decoupled.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        matrix_rate: float = 5.0,
        convolution_rate: float = 5.0,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        by_rate: dict[float, list[nn.Parameter]] = {1.0: [], matrix_rate: [], convolution_rate: []}
        for one in params:
            wide = one.ndim > 2 and one.shape[2:].numel() > 1
            by_rate[convolution_rate if wide else matrix_rate if one.ndim > 1 else 1.0].append(one)
        groups: list[dict[str, Any]] = [
            {"params": own, "lr": lr * rate} for rate, own in by_rate.items()
        ]
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; see :meth:`torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # What a batch does not use (an absent branch) stays: however small the momentum is,
            # its orthogonalised step is as long as any other.
            used = [p for p in group["params"] if p.grad is not None and p.grad.any()]
            matrices = [one for one in used if one.ndim > 1]
            along = orthogonalised([self._ahead(one, group["momentum"]) for one in matrices])
            moves = {
                one: 0.2 * max(x.shape) ** 0.5 * x for one, x in zip(matrices, along, strict=True)
            }
            for one in used:
                move = moves[one].view_as(one) if one in moves else self._along_vector(one, group)
                one.mul_(1 - group["lr"] * group["weight_decay"]).add_(move, alpha=-group["lr"])
        return loss

    def _ahead(self, one: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's momentum as a matrix."""
        state = self.state[one]
        if not state:
            state["momentum"] = torch.zeros_like(one)
        gradient = one.grad
        assert gradient is not None
        mean = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum).flatten(1)

    def _along_vector(self, one: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[one], one.grad
        assert gradient is not None
        if not state:
            state.update(step=0, mean=torch.zeros_like(one), square=torch.zeros_like(one))
        state["step"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first) / (1 - first ** state["step"])
        square = state["square"].lerp_(gradient**2, 1 - second) / (1 - second ** state["step"])
        return mean / (square.sqrt() + _EPS)


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The nearest matrices (m, n) with singular values of about 1 (0.7 to 1.2): Newton-Schulz.

    The iteration multiplies from the left alone, by polynomials of the product of the matrix with
    its transpose. So it runs on these small squares, all of one size together.
    """
    wide = [x.T if len(x) > x.shape[1] else x for x in matrices]
    wide = [x / (x.norm() + _EPS) for x in wide]
    sizes: dict[int, list[int]] = {}
    for index, x in enumerate(wide):
        sizes.setdefault(len(x), []).append(index)
    for own in sizes.values():
        factors = _newton_schulz(torch.stack([wide[index] @ wide[index].T for index in own]))
        for index, factor in zip(own, factors, strict=True):
            wide[index] = factor @ wide[index]
    return [x.T if len(one) > one.shape[1] else x for one, x in zip(matrices, wide, strict=True)]


def _newton_schulz(square: Tensor) -> Tensor:
    """What x is to be multiplied with, of ``square`` = x x^T: (N, m, m)."""
    a, b, c = _QUINTIC
    one = torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
    total = one
    for _ in range(_ITERATIONS):
        factor = a * one + b * square + c * square @ square
        total = factor @ total
        square = factor @ square @ factor
    return total
