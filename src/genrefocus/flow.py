"""The flow-matching objective: one parametrisation, shared by training and sampling.

The path is ``x_sigma = (1 - sigma) x_0 + sigma x_1`` with ``x_0`` the clean latents, ``x_1``
Gaussian noise, and its velocity ``x_1 - x_0`` (rectified flow, as FLUX.1 is trained). The network's
output is read either as the velocity or as the residual ``x_0 - condition``; both describe the same
flow.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Prediction = Literal["velocity", "residual"]

_SMALLEST_SIGMA = 1e-3  # division guard when a residual is turned into a velocity


@dataclass(frozen=True)
class Shift:
    """Resolution-dependent time shift: mu is affine in the number of image tokens.

    The defaults are FLUX.1-dev's scheduler configuration in diffusers.
    """

    base_tokens: int = 256
    max_tokens: int = 4096
    base_mu: float = 0.5
    max_mu: float = 1.15

    @classmethod
    def of_scheduler(cls, config: Mapping[str, Any]) -> "Shift":
        """The shift of a diffusers scheduler configuration.

        Raises:
            KeyError: the configuration lacks one of the four numbers.
        """
        return cls(
            base_tokens=config["base_image_seq_len"],
            max_tokens=config["max_image_seq_len"],
            base_mu=config["base_shift"],
            max_mu=config["max_shift"],
        )

    def mu(self, tokens: int) -> float:
        """mu for ``tokens`` image tokens, as diffusers' ``calculate_shift``."""
        slope = (self.max_mu - self.base_mu) / (self.max_tokens - self.base_tokens)
        return self.base_mu + slope * (tokens - self.base_tokens)


def shift_sigma(sigma: Tensor, mu: float) -> Tensor:
    """Map sigma in (0, 1] to ``e^mu / (e^mu + 1/sigma - 1)`` (the FLUX time shift).

    Esser et al. 2024, section 5.3.2; evaluated in the order of diffusers' scheduler, because a
    difference in the last bit of sigma is visible in the embedding of a timestep near 1000.
    """
    e_mu = sigma.new_full((), math.exp(mu))  # a tensor: number / tensor rounds twice in torch
    return e_mu / (e_mu + (1 / sigma - 1))


@dataclass(frozen=True)
class SigmaDistribution:
    """Distribution of sigma during training.

    Args:
        kind: ``logit_normal`` (sigmoid of a normal) or ``uniform`` on (0, 1].
        mean, std: of the normal under ``logit_normal``.
        shifted: apply the resolution-dependent shift to the draw.
    """

    kind: Literal["logit_normal", "uniform"] = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shifted: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("logit_normal", "uniform"):
            raise ValueError(
                f"sigma distribution '{self.kind}' unknown: use logit_normal or uniform"
            )

    def draw(self, uniform: Tensor, mu: float) -> Tensor:
        """Turn uniform draws in [0, 1), shape (B,), into sigmas in (0, 1], shape (B,)."""
        if self.kind == "uniform":
            sigma = 1 - uniform
        else:
            inside = uniform.clamp(1e-6, 1 - 1e-6)
            sigma = torch.sigmoid(self.mean + self.std * torch.special.ndtri(inside))
        return shift_sigma(sigma, mu) if self.shifted else sigma


@dataclass(frozen=True)
class Flow:
    """The flow from noise to the clean latents, and how the network's output describes it.

    Args:
        prediction: ``velocity`` (as published) or ``residual``: the output is x_0 - condition.
        loss_floor: None for the plain squared error (as published). A number divides a sample's
            error by the power of its target plus this number, so that edits that change little
            count as much as those that change a lot; PSNR averaged over images asks for just that.
    """

    prediction: Prediction = "velocity"
    loss_floor: float | None = None

    def __post_init__(self) -> None:
        if self.prediction not in ("velocity", "residual"):
            raise ValueError(f"prediction '{self.prediction}' unknown: use velocity or residual")
        if self.loss_floor is not None and not self.loss_floor > 0:
            raise ValueError(f"loss_floor must be above 0 or null, got {self.loss_floor}")

    def velocity(self, output: Tensor, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Velocity that the network's ``output`` stands for at ``x``; sigma (B,)."""
        if self.prediction == "velocity":
            return output
        return (x.float() - condition - output) / _broadcast(sigma, x).clamp_min(_SMALLEST_SIGMA)

    def loss(self, output: Tensor, x_0: Tensor, x_1: Tensor, condition: Tensor) -> Tensor:
        """Mean squared error per sample, shape (B,): of the velocity, or of x_0 for a residual."""
        ahead, behind = (x_1, x_0) if self.prediction == "velocity" else (x_0, condition)
        target = ahead.float() - behind.float()
        error = (output.float() - target).square().flatten(1).mean(1)
        if self.loss_floor is None:
            return error
        return error / (target.square().flatten(1).mean(1) + self.loss_floor)


def interpolate(x_0: Tensor, x_1: Tensor, sigma: Tensor) -> Tensor:
    """``(1 - sigma) x_0 + sigma x_1`` in the dtype of x_0; x (B, N, C), sigma (B,)."""
    s = _broadcast(sigma, x_0)
    return ((1 - s) * x_0 + s * x_1).to(x_0.dtype)


def schedule(steps: int, mu: float) -> list[float]:
    """The ``steps + 1`` sigmas of the FLUX Euler schedule, from 1 down to 0, shifted by ``mu``.

    The fp32 numbers of diffusers' ``FlowMatchEulerDiscreteScheduler``, to the last bit.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    linear = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).float()
    return [*shift_sigma(linear, mu).tolist(), 0.0]


def euler_step(x: Tensor, velocity: Tensor, sigma: float, next_sigma: float) -> Tensor:
    """One explicit Euler step along the flow, in fp32."""
    return (x.float() + (next_sigma - sigma) * velocity.float()).to(x.dtype)


def _broadcast(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.view(-1, *[1] * (like.ndim - 1))
