"""Muon, an optimiser for matrices, in single precision."""

from collections.abc import Callable, Iterable
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
            for one in group["params"]:
                # What a batch does not use (an absent branch) stays: however small the momentum is,
                # its orthogonalised step is as long as any other.
                if one.grad is not None and one.grad.any():
                    move = self._along_matrix if one.ndim > 1 else self._along_vector
                    one.mul_(1 - group["lr"] * group["weight_decay"])
                    one.add_(move(one, one.grad, group), alpha=-group["lr"])
        return loss

    def _along_matrix(self, one: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[one]
        if not state:
            state["momentum"] = torch.zeros_like(one)
        mean = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(mean, group["momentum"]).flatten(1)
        return (0.2 * max(ahead.shape) ** 0.5 * orthogonalised(ahead)).view_as(one)

    def _along_vector(self, one: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[one]
        if not state:
            state.update(step=0, mean=torch.zeros_like(one), square=torch.zeros_like(one))
        state["step"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first) / (1 - first ** state["step"])
        square = state["square"].lerp_(gradient**2, 1 - second) / (1 - second ** state["step"])
        return mean / (square.sqrt() + _EPS)


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix (m, n) with singular values of about 1 (0.7 to 1.2): Newton-Schulz."""
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = x / (x.norm() + _EPS)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if len(matrix) > matrix.shape[1] else x
