"""The conditioned denoising network: condition images to tokens, training loss, and sampling.

DeblurNet and BokehNet both edit an image: a source, perhaps a defocus map or a draft, and a prompt
lead to a target image. Training, validation and the pipeline all encode these here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from genrefocus.backbone import Backbone, Branch, KvCache, Lora, Role, TextEmbedding
from genrefocus.flow import Flow, interpolate, schedule
from genrefocus.noise import noise_like, to_device
from genrefocus.sampling import DraftIds, Tile, cut, denoise, tiled

Grid = tuple[int, int]

#: tokens of the image from one token of a control map at half resolution to the next
_HALF = 2


@dataclass(frozen=True)
class Conditions:
    """Conditions of a batch of edits.

    Attributes:
        prompts: one a row.
        source: (B, 3, H, W) in [0, 1], the image that is edited.
        control: (B, 1, H, W) defocus map in [0, 1], second condition; or None.
        draft: (B, 3, H, W) in [0, 1], a preliminary result, first condition with shifted ids; or
            None.
        shape: (B, 1, s, s) in [0, 1], the shape of the aperture, last condition with shifted ids;
            or None.
    """

    prompts: Sequence[str]
    source: Tensor
    control: Tensor | None = None
    draft: Tensor | None = None
    shape: Tensor | None = None

    @property
    def shapes(self) -> tuple[torch.Size | None, ...]:
        """Of source, control, draft and shape; None for what is not there."""
        images = (self.source, self.control, self.draft, self.shape)
        return tuple(None if one is None else one.shape for one in images)


@dataclass(frozen=True)
class ConditionTokens:
    """Packed tokens (B, N, C) of a condition image, and its role.

    ``shift`` is added to its position ids, as (rows, columns) of the token grid: the released
    pre-deblur condition uses (0, 32). From one of its tokens to the next are ``pitch`` of the
    image's. One with a ``side`` is a square of so many tokens, which every tile sees whole.
    """

    tokens: Tensor
    shift: tuple[int, int] = (0, 0)
    role: Role = "source"
    pitch: int = 1
    side: int | None = None

    def branch(
        self, grid: Grid, timestep: Tensor, guidance: Tensor, lora: Lora | None = None
    ) -> Branch:
        """Beside an image of the token grid ``grid``, with its own adapter if it has one."""
        rows, columns = (self.side, self.side) if self.side else _coarser(grid, self.pitch)
        ids = image_ids(
            rows, columns, shift=self.shift, pitch=self.pitch, device=self.tokens.device
        )
        return Branch(self.tokens, ids, timestep, guidance, self.role, lora)

    def cut(self, windows: Sequence[Tile], grid: Grid, *, drop_shift: bool) -> "ConditionTokens":
        """What lies in windows of one size of the image, whose token grid is ``grid``."""
        if self.side:
            return replace(self, tokens=self.tokens.repeat(len(windows), 1, 1))
        own = [one.coarser(self.pitch) for one in windows]
        tokens = cut(self.tokens, own, _coarser(grid, self.pitch))
        return replace(self, tokens=tokens, shift=(0, 0) if drop_shift else self.shift)


@dataclass(frozen=True)
class Latents:
    """A batch of edits as the transformer takes them, for any number of losses and images.

    Attributes:
        text: embedded prompts.
        conditions: in the released order, and the shape of the aperture behind them.
        source: (B, N, C) tokens of the image that is edited, which a residual refers to.
        noise: (B, N, C), standard normal.
        target: (B, N, C) clean tokens; None where the target is not known.
        grid: rows and columns of the tokens.
    """

    text: TextEmbedding
    conditions: Sequence[ConditionTokens]
    source: Tensor
    noise: Tensor
    target: Tensor | None
    grid: Grid

    @property
    def tokens(self) -> int:
        """Of a row, as the transformer sees them: of text, image and conditions."""
        parts = (self.text.tokens, self.noise, *(one.tokens for one in self.conditions))
        return sum(part.shape[1] for part in parts)


@dataclass(frozen=True)
class Denoiser:
    """Encodes conditions for a backbone, gives the training loss, and samples.

    Args:
        backbone: frozen transformer, codec and prompts.
        flow: path and parametrisation.
        lora: adapter of the condition branches.
        shape_lora: that of the condition which shows the shape of the aperture; without it none
            does.
        guidance: guidance value of the noisy image; conditions always carry 1 (released).
        isolate_conditions: a condition attends to itself alone (an option for weights trained
            here).
        cache_gib: GiB of keys and values of isolated conditions that sampling keeps over its steps;
            tiles for which no room is left compute theirs at every step.
        draft_ids: position ids of a deblurred draft beside the photograph. ``shifted``: beside the
            image in training and in sampling, whole and in tiles, as networks trained here are
            trained. ``released``: as the release samples, which drops the shift in tiles.
        half_control: the control map enters at half its resolution, as a quarter of its tokens (an
            option for weights trained here). Sides are then multiples of two tokens, so that a tile
            of a large image sees what an image of its size does.

    Raises:
        ValueError: the backbone takes control maps at full resolution alone.
    """

    backbone: Backbone
    flow: Flow
    lora: Lora | None = None
    guidance: float = 1.0
    isolate_conditions: bool = False
    cache_gib: float = 8.0
    draft_ids: DraftIds = "shifted"
    half_control: bool = False
    shape_lora: Lora | None = None

    def __post_init__(self) -> None:
        if self.half_control and not self.backbone.takes_half_control:
            raise ValueError(
                "half_control: backbone=tiny reads the control map pixel by pixel; set "
                "half_control=false, or backbone=flux_dev"
            )

    @property
    def pixel_multiple(self) -> int:
        """Of which the sides of an image are multiples, px."""
        return self.backbone.pixels_per_token * (_HALF if self.half_control else 1)

    def encode(
        self,
        conditions: Conditions,
        generators: Sequence[Generator],
        target: Tensor | None = None,
    ) -> Latents:
        """Conditions, and where it is known the target (B, 3, H, W) in [0, 1], as tokens.

        There is one generator a row, so that a sample's noise does not depend on its batch. Images
        that have a target are those of a data set: they are encoded again, see :class:`Codec`.

        Raises:
            ValueError: sides are no multiples of :attr:`pixel_multiple`.
        """
        backbone, encoded, keep = self.backbone, [], target is not None
        with torch.no_grad():
            if conditions.draft is not None:
                tokens = backbone.encode_image(conditions.draft, generators, keep=keep)
                encoded.append(ConditionTokens(tokens, (0, backbone.tiling.size), "draft"))
            source = backbone.encode_image(conditions.source, generators, keep=keep)
            encoded.append(ConditionTokens(source))
            if conditions.control is not None:
                encoded.append(self._control(conditions.control, generators, keep=keep))
            if conditions.shape is not None:
                grid = backbone.grid(*conditions.source.shape[-2:])
                encoded.append(self._shape(conditions.shape, grid, generators, keep=keep))
            clean = None
            if target is not None:
                clean = backbone.encode_image(target, generators, keep=True)
        text, noise = backbone.embed(conditions.prompts), noise_like(source, generators)
        grid = backbone.grid(*conditions.source.shape[-2:])
        return Latents(text, encoded, source, noise, clean, grid)

    def with_control(
        self, latents: Latents, control: Tensor, generators: Sequence[Generator]
    ) -> Latents:
        """The same edits by another control map (B, 1, H, W) in [0, 1]."""
        with torch.no_grad():
            other = self._control(control, generators)
        same = latents.conditions
        return replace(latents, conditions=[other if c.role == "control" else c for c in same])

    def _control(
        self, control: Tensor, generators: Sequence[Generator], *, keep: bool = False
    ) -> ConditionTokens:
        pitch, (height, width) = 1, control.shape[-2:]
        if self.half_control:
            if height % self.pixel_multiple or width % self.pixel_multiple:
                raise ValueError(
                    f"image is {width}x{height} px: with half_control both sides must be "
                    f"multiples of {self.pixel_multiple}"
                )
            pitch, control = _HALF, F.avg_pool2d(control, _HALF)
        tokens = self.backbone.encode_control(control, generators, keep=keep)
        return ConditionTokens(tokens, role="control", pitch=pitch)

    def _shape(
        self, shape: Tensor, grid: Grid, generators: Sequence[Generator], *, keep: bool = False
    ) -> ConditionTokens:
        """A square as large as the image's shorter edge, or a tile's where it is cut into tiles.

        Its ids are shifted as a draft's: no place of it belongs to one of the image.
        """
        backbone, tiling = self.backbone, self.backbone.tiling
        side = min(*grid, *([tiling.size] if tiling.applies(grid) else []))
        edge = side * backbone.pixels_per_token
        if shape.shape[-1] != edge:
            shape = F.interpolate(shape, (edge, edge), mode="area")
        tokens = backbone.encode_image(shape.expand(-1, 3, -1, -1), generators, keep=keep)
        return ConditionTokens(tokens, (0, tiling.size), "shape", side=side)

    def loss(self, latents: Latents, sigma: Tensor) -> Tensor:
        """Flow-matching loss per sample (B,) towards the target.

        Args:
            latents: with their target.
            sigma: (B,), best left in fp32 when the transformer is in bf16.
        """
        assert latents.target is not None, "there is no loss without a target"
        sigma = to_device(sigma, latents.target.device)
        x = interpolate(latents.target, latents.noise, sigma)
        output = self._output(latents.text, x, latents.conditions, latents.grid, sigma)
        return self.flow.loss(output, latents.target, latents.noise, latents.source)

    @torch.no_grad()
    def sample(self, latents: Latents, steps: int) -> Tensor:
        """The edited images (B, 3, H, W) in [0, 1], by ``steps`` Euler steps."""
        return self.backbone.decode(self.sample_tokens(latents, steps), latents.grid)

    @torch.no_grad()
    def sample_tokens(self, latents: Latents, steps: int) -> Tensor:
        """Clean tokens (B, N, C) by Euler steps on the FLUX schedule.

        mu comes from the token count of the whole image, also when it is cut into tiles (released).
        """
        grid, tiling = latents.grid, self.backbone.tiling
        in_tiles = tiling.applies(grid)
        drop_shift = in_tiles and self.draft_ids == "released"
        caches: dict[Tile, KvCache] = {}  # by the first tile of a forward

        def velocity(x: Tensor, sigma: float, tiles: Sequence[Tile]) -> Tensor:
            level = x.new_full((x.shape[0],), sigma, dtype=torch.float32)
            inside = [c.cut(tiles, grid, drop_shift=drop_shift) for c in latents.conditions]
            if self.isolate_conditions and _gib(caches.values()) < self.cache_gib:
                caches.setdefault(tiles[0], {})
            text, window = latents.text.repeated(len(tiles)), (tiles[0].rows, tiles[0].columns)
            out = self._output(text, x, inside, window, level, caches.get(tiles[0]))
            return self.flow.velocity(out, x, level, cut(latents.source, tiles, grid))

        size, stride = (tiling.size, tiling.stride) if in_tiles else (max(grid), max(grid))
        return denoise(
            tiled(velocity, grid, size=size, stride=stride, batch=tiling.batch),
            latents.noise,
            schedule(steps, self.backbone.shift.mu(latents.noise.shape[1])),
        )

    def _output(
        self,
        text: TextEmbedding,
        x: Tensor,
        conditions: Sequence[ConditionTokens],
        grid: Grid,
        sigma: Tensor,
        cache: KvCache | None = None,
    ) -> Tensor:
        """Network output (B, N, C) for noisy tokens x at sigma (B,)."""
        zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
        image = Branch(x, image_ids(*grid, device=x.device), sigma, one * self.guidance, "image")
        own = {"shape": self.shape_lora}
        branches = [c.branch(grid, zero, one, own.get(c.role)) for c in conditions]
        isolated = self.isolate_conditions
        return self.backbone(
            text, image, branches, grid, lora=self.lora, isolated=isolated, cache=cache
        )


def _gib(caches: Iterable[KvCache]) -> float:
    return sum(x.nbytes for cache in caches for pair in cache.values() for x in pair) / 2**30


def _coarser(grid: Grid, pitch: int) -> Grid:
    return grid[0] // pitch, grid[1] // pitch


def image_ids(
    rows: int,
    columns: int,
    *,
    shift: tuple[int, int] = (0, 0),
    pitch: int = 1,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Position ids (rows * columns, 3) as in diffusers: (0, row, column), plus ``shift``.

    A token that covers ``pitch`` x ``pitch`` of the image's has the position of their middle, as
    smaller conditions have in the released code.
    """
    ids, middle = torch.zeros(rows, columns, 3, device=device), (pitch - 1) / 2
    ids[..., 1] = torch.arange(rows, device=device)[:, None] * pitch + middle + shift[0]
    ids[..., 2] = torch.arange(columns, device=device)[None, :] * pitch + middle + shift[1]
    return ids.reshape(-1, 3)
