"""A conditioned denoising network: transformer, flow and adapters, in training and sampling."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genrefocus.backbone import Backbone, Branch, Lora, TextEmbedding, multi_condition_forward
from genrefocus.backbone.local_path import LocalPath
from genrefocus.flow import Flow, Shift, interpolate, schedule
from genrefocus.sampling import Tile, Tiling, denoise, tiled

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

Grid = tuple[int, int]


@dataclass(frozen=True)
class Condition:
    """Packed tokens (B, N, C) of a condition image.

    ``delta`` shifts its position ids by (rows, columns) of the token grid: the released pre-deblur
    condition uses (0, 32).
    """

    tokens: Tensor
    delta: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Denoiser:
    """Network output, training loss and sampling of one conditioned task.

    Args:
        transformer: diffusers' FLUX transformer.
        flow: path and parametrisation.
        shift: resolution-dependent time shift.
        loras: adapters on the condition branches.
        guidance: guidance value of the noisy image; conditions always carry 1 (released).
        tiling: for sampling.
        independent: conditions attend to themselves only (an option for weights trained here).
        local: convolutions around a tiny transformer; FLUX has none.
    """

    transformer: FluxTransformer2DModel
    flow: Flow
    shift: Shift
    loras: tuple[Lora, ...] = ()
    guidance: float = 1.0
    tiling: Tiling = Tiling()
    independent: bool = False
    local: LocalPath | None = None

    @classmethod
    def of(cls, backbone: Backbone, flow: Flow, **settings: Any) -> Denoiser:
        """A denoiser on ``backbone`` with the backbone's own shift, local path and tiling."""
        own = {"tiling": backbone.tiling, "local": backbone.local}
        return cls(backbone.transformer, flow, backbone.shift, **{**own, **settings})

    def __deepcopy__(self, memo: dict[int, Any]) -> Denoiser:
        # An averaged copy of a module that trains adapters must not copy the frozen network.
        return replace(self, loras=copy.deepcopy(self.loras, memo))

    def output(
        self,
        text: TextEmbedding,
        x: Tensor,
        conditions: Sequence[Condition],
        grid: Grid,
        sigma: Tensor,
    ) -> Tensor:
        """Network output (B, N, C) for noisy tokens x at sigma (B,)."""
        if self.local is None:
            return self._transformed(text, x, conditions, grid, sigma)
        images = torch.cat([x, *(c.tokens for c in conditions)])
        entered, maps = self.local.enter(images, grid)
        noisy, *features = entered.chunk(1 + len(conditions))
        inside = [replace(c, tokens=f) for c, f in zip(conditions, features, strict=True)]
        out = self._transformed(text, noisy, inside, grid, sigma)
        return self.local.leave(out, maps[: len(x)], grid)

    def _transformed(
        self,
        text: TextEmbedding,
        x: Tensor,
        conditions: Sequence[Condition],
        grid: Grid,
        sigma: Tensor,
    ) -> Tensor:
        zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
        image = Branch(x, image_ids(*grid, device=x.device), sigma, one * self.guidance)
        branches = [
            Branch(
                condition.tokens,
                image_ids(*grid, delta=condition.delta, device=x.device),
                zero,
                one,
                self.loras,
                self.independent,
            )
            for condition in conditions
        ]
        return multi_condition_forward(self.transformer, text.tokens, text.pooled, image, branches)

    def loss(
        self,
        text: TextEmbedding,
        clean: Tensor,
        noise: Tensor,
        conditions: Sequence[Condition],
        reference: Tensor,
        grid: Grid,
        sigma: Tensor,
    ) -> Tensor:
        """Flow-matching loss per sample, (B,).

        Args:
            text: prompt embeddings.
            clean, noise: (B, N, C) target latents and standard normal noise.
            conditions: condition images in order.
            reference: (B, N, C) the condition that the target is an edit of; a flow that starts at
                the condition or predicts the residual refers to it.
            grid: token grid.
            sigma: (B,), best left in fp32 when the transformer is in bf16.
        """
        endpoint = self.flow.endpoint(noise, reference)
        x = interpolate(clean, endpoint, sigma)
        return self.flow.loss(
            self.output(text, x, conditions, grid, sigma), clean, endpoint, reference
        )

    @torch.no_grad()
    def sample(
        self,
        text: TextEmbedding,
        noise: Tensor,
        conditions: Sequence[Condition],
        reference: Tensor,
        grid: Grid,
        steps: int,
    ) -> Tensor:
        """Clean tokens (B, N, C) from noise (B, N, C) by Euler steps on the FLUX schedule.

        mu comes from the token count of the whole image, also when it is cut into tiles (released).
        """

        def velocity(x: Tensor, sigma: float, tile: Tile) -> Tensor:
            level = x.new_full((x.shape[0],), sigma, dtype=torch.float32)
            inside = [
                Condition(
                    tile.cut(c.tokens, grid),
                    (0, 0) if cut and self.tiling.ids == "released" else c.delta,
                )
                for c in conditions
            ]
            out = self.output(text, x, inside, (tile.rows, tile.columns), level)
            return self.flow.velocity(out, x, level, tile.cut(reference, grid))

        cut = self.tiling.applies(grid)
        size, stride = (self.tiling.size, self.tiling.stride) if cut else (max(grid), max(grid))
        step = tiled(velocity, grid, size=size, stride=stride)
        return denoise(
            step,
            self.flow.endpoint(noise, reference),
            schedule(steps, self.shift.mu(noise.shape[1])),
        )

    def with_loras(self, *loras: Lora) -> Denoiser:
        """The same network with other adapters."""
        return replace(self, loras=loras)


def image_ids(
    rows: int, columns: int, *, delta: tuple[int, int] = (0, 0), device: torch.device | str = "cpu"
) -> Tensor:
    """Position ids (rows * columns, 3) as in diffusers: (0, row, column), plus ``delta``."""
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None] + delta[0]
    ids[..., 2] = torch.arange(columns, device=device)[None, :] + delta[1]
    return ids.reshape(-1, 3)
