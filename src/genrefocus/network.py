"""Trained networks: loaded as their cards describe them, and asked for images."""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from genrefocus.backbone import Backbone, Quantise, load_flux_dev, load_tiny
from genrefocus.backbone.codec import VaeCodec
from genrefocus.backbone.lora import load_lora, read_metadata
from genrefocus.denoiser import Conditions, Denoiser
from genrefocus.geometry import View, resize_defocus, resize_image, round_up_to_multiple
from genrefocus.network_card import (
    DEBLUR_PROMPT,
    STEPS,
    TRAINED_OPTIONS,
    BackboneSource,
    NetworkCard,
    NetworkTask,
    NetworkVariant,
    latest_run,
    networks_of,
    released_card,
    require_backbone,
    require_deblurnet,
)
from genrefocus.noise import seeded_generators
from genrefocus.render.apertures import Aperture

Device = str | torch.device


@dataclass(frozen=True)
class MemoryUse:
    """How sampling trades time for memory; images are equal to rounding but for the first two.

    Attributes:
        vae_tiling: encode and decode large images in tiles, which bounds the memory of FLUX's
            autoencoder and changes the result a little.
        quantise: the frozen base, see :func:`quantise_blocks`; None: as the networks were trained.
        offload: see :meth:`Backbone.offload`; of FLUX.
        tile_batch: tiles in one forward, see :class:`genrefocus.sampling.Tiling`.
        cache_gib: see :class:`Denoiser`.
    """

    vae_tiling: bool = False
    quantise: Quantise | Literal["none"] | None = None
    offload: bool = False
    tile_batch: int = 1
    cache_gib: float = Denoiser.cache_gib


DEFAULT_MEMORY = MemoryUse()


@dataclass(frozen=True)
class Network:
    """A DeblurNet or BokehNet with its prompt and steps. Called with photographs, it edits them.

    Attributes:
        denoiser: with its LoRA.
        prompt: that of DeblurNet is free text; the words of a blurred sign help to restore it.
        steps: Euler steps.
        variant: see :class:`NetworkCard`.
        largest_radius: of the defocus maps that it was trained on, px; None: not known.
        restored_radius: see :class:`NetworkCard`.
        seed: of the noise, when the network is called.
        weights: names of its LoRA files with digests, for provenance.
        origin: path of the LoRA file, for messages.
        card: that it was loaded by; None: it was not loaded from files.

    Raises:
        ValueError: less than one step.
    """

    denoiser: Denoiser
    prompt: str
    steps: int
    variant: NetworkVariant = "standard"
    largest_radius: float | None = None
    restored_radius: float | None = None
    seed: int = 0
    weights: str = ""
    origin: str = ""
    card: NetworkCard | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    @property
    def takes_draft(self) -> bool:
        """Whether it reads a deblurred draft beside the photograph."""
        return self.variant == "pre_deblur"

    @property
    def takes_map(self) -> bool:
        """Whether it is a DeblurNet that can be told the blur by a defocus map."""
        return self.variant == "told"

    @property
    def takes_shape(self) -> bool:
        """Whether it is a BokehNet that can be told the shape of the aperture."""
        return self.denoiser.shape_lora is not None

    def require_no_draft(self) -> None:
        """
        Raises:
            ValueError: it reads a deblurred draft.
        """
        if self.takes_draft:
            raise ValueError(
                f"{self.origin or 'the network'} reads a deblurred draft beside the photograph, "
                "and here there is none; use a DeblurNet without one"
            )

    def __call__(
        self,
        photographs: Tensor,
        numbers: Sequence[int] | None = None,
        drafts: Tensor | None = None,
        maps: Tensor | None = None,
        prompts: Sequence[str | None] | None = None,
    ) -> Tensor:
        """Photographs (B, 3, H, W) in [0, 1] of any size, edited; same shape, on the CPU.

        The noise of a photograph depends on the seed and its number, and not on its neighbours;
        without numbers all have number 0. ``maps`` (B, 1, H, W) tell a DeblurNet the blur; see
        :attr:`takes_map`. A prompt of its own is in place of the network's.

        Raises:
            ValueError: the network reads a draft, and there is none.
        """
        if drafts is None:
            self.require_no_draft()
        else:
            drafts = torch.stack([self._to_whole_tokens(one) for one in drafts])
        height, width = photographs.shape[-2:]
        whole = torch.stack([self._to_whole_tokens(one) for one in photographs])
        if maps is not None:
            size = whole.shape[-2:]
            maps = torch.stack([resize_defocus(one[0], *size)[None] for one in maps])
        noise = seeded_generators(self.seed, [0] * len(whole) if numbers is None else numbers)
        edited = self.generate(whole, noise, control=maps, draft=drafts, prompts=prompts)
        return torch.stack([resize_image(one, height, width) for one in edited])

    def _to_whole_tokens(self, image: Tensor) -> Tensor:
        """An image (3, H, W) scaled up so that both sides are whole tokens (released size rule)."""
        return round_up_to_multiple(View(image), self.denoiser.pixel_multiple).image

    def generate(
        self,
        source: Tensor,
        generators: Sequence[Generator],
        *,
        control: Tensor | None = None,
        draft: Tensor | None = None,
        prompts: Sequence[str | None] | None = None,
        aperture: Aperture | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Edited images (B, 3, H, W) in [0, 1], fp32 on the CPU.

        Sides are multiples of the denoiser's ``pixel_multiple``.

        Args:
            source, control, draft: see :class:`Conditions`.
            aperture: shape of the blur, see :attr:`takes_shape`; None leaves it to the network.
            generators: one a row.
            prompts: one a row, None for the network's; None: all have that.
            report: called with (forwards done, forwards in all).

        Raises:
            ValueError: there is an aperture, and the network takes none.
        """
        asked = [own or self.prompt for own in prompts or [None] * len(source)]
        shape = None
        if aperture is not None:
            if not self.takes_shape:
                raise ValueError(f"{self.origin or 'the network'} knows no shapes of apertures")
            shape = aperture.image(min(source.shape[-2:])).expand(len(source), -1, -1, -1)
        conditions = Conditions(asked, source, control, draft, shape)
        latents = self.denoiser.encode(conditions, generators)
        with self._reported(latents.grid, report):
            return self.denoiser.sample(latents, self.steps).float().cpu()

    @contextmanager
    def _reported(
        self, grid: tuple[int, int], report: Callable[[int, int], None] | None
    ) -> Iterator[None]:
        if report is None:
            yield
            return
        backbone, done = self.denoiser.backbone, 0
        forwards = self.steps * backbone.tiling.forwards(grid)

        def count(*_: object) -> None:
            nonlocal done
            done += 1
            report(done, forwards)

        report(0, forwards)
        hook = backbone.register_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()


def load_networks(
    cards: Mapping[NetworkTask, NetworkCard],
    *,
    device: Device = "cpu",
    memory: MemoryUse = DEFAULT_MEMORY,
    prompts: Collection[str] = (),
    embeddings: str | Path | None = None,
) -> dict[NetworkTask, Network]:
    """The networks that cards describe; those of one backbone share it.

    Prompts are encoded in one go, for which FLUX loads its text encoders once; only then its
    transformer moves to the device.

    Args:
        cards: of a run (:func:`networks_of`) or of LoRA files (:func:`released_card`).
        device: where the networks run.
        memory: what they may take.
        prompts: further ones that they will be asked with.
        embeddings: folder that keeps those of FLUX, see ``PromptCache``; None: main memory does,
            4 MiB each.

    Raises:
        FileNotFoundError: a LoRA file or the backbone of a network is missing.
        ValueError: a file does not fit its card.
        OSError: FLUX is neither a local folder nor reachable on the hub.
    """
    for file in [file for card in cards.values() for file in card.loras]:
        if not Path(file).is_file():
            raise FileNotFoundError(f"LoRA file {file} does not exist")
    if memory.quantise is not None:
        how = None if memory.quantise == "none" else memory.quantise
        cards = {
            task: replace(card, backbone=replace(card.backbone, quantise=how))
            for task, card in cards.items()
        }
    backbones: dict[BackboneSource, Backbone] = {}
    for source in map(require_backbone, cards.values()):
        if source not in backbones:
            load: Any = load_tiny if source.kind == "tiny" else load_flux_dev
            backbones[source] = load(source.path, quantise=source.quantise)
    networks = {task: network_of(card, backbones[card.backbone]) for task, card in cards.items()}
    for source, backbone in backbones.items():
        if source.kind == "flux_dev" and embeddings is not None:
            backbone.prompts.folder = Path(embeddings)
        own = {card.prompt for card in cards.values() if card.backbone == source}
        backbone.prompts.learn({*own, *prompts}, torch.device(device))
        _place(backbone, device, memory)
    return {task: _placed(network, device, memory) for task, network in networks.items()}


def deblurnet_of_run(
    run: str | Path,
    *,
    outputs: str | Path,
    steps: int | None = None,
    seed: int = 0,
    device: Device = "cpu",
    prompts: Collection[str] = (),
    embeddings: str | Path | None = None,
) -> Network:
    """The DeblurNet of a training run.

    Args:
        run: folder of a run, or of its stage; ``latest`` is the newest below ``outputs``.
        outputs: where ``latest`` looks.
        steps: in place of the card's.
        seed: of the noise.
        device: where it runs.
        prompts, embeddings: see :func:`load_networks`.

    Raises:
        FileNotFoundError: no run, no network in it, or its backbone is missing.
        ValueError: files do not fit their card, or it reads a deblurred draft.
    """
    folder = (
        latest_run(outputs, ("deblur",), option="deblur.run=") if run == "latest" else Path(run)
    )
    card = require_deblurnet(networks_of(folder), folder)
    network = load_networks(
        {"deblur": card}, device=device, prompts=prompts, embeddings=embeddings
    )["deblur"]
    network.require_no_draft()
    return replace(network, steps=network.steps if steps is None else steps, seed=seed)


def deblurnet_of_lora(
    flux: str,
    *,
    lora: str | Path,
    prompt: str = DEBLUR_PROMPT,
    steps: int = STEPS,
    seed: int = 0,
    device: Device = "cpu",
    prompts: Collection[str] = (),
    embeddings: str | Path | None = None,
) -> Network:
    """A DeblurNet as a LoRA file on FLUX.1-dev; see :func:`load_networks` for errors."""
    card = replace(released_card("deblur", flux, lora, steps=steps), prompt=prompt)
    network = load_networks(
        {"deblur": card}, device=device, prompts=prompts, embeddings=embeddings
    )["deblur"]
    return replace(network, seed=seed)


def network_of(card: NetworkCard, backbone: Backbone) -> Network:
    """The network of a card on a backbone that is loaded.

    Raises:
        ValueError: the LoRA file does not fit the card or the backbone.
    """
    lora, *shape = (
        load_lora(one, backbone.transformer).requires_grad_(False) for one in card.loras
    )
    if card.rank not in (None, lora.rank):
        raise ValueError(f"{card.lora} has rank {lora.rank} but its card says {card.rank}")
    for file, option in itertools.product(card.loras, TRAINED_OPTIONS):
        if read_metadata(file).get(option) == "true" and not getattr(card, option):
            raise ValueError(
                f"{file} was trained with {option}=true, which a LoRA file alone is not "
                "sampled with; name the folder that it was trained in (--run, run=, deblur.run=)"
            )
    denoiser = Denoiser(
        backbone,
        card.flow,
        lora,
        guidance=card.guidance,
        isolate_conditions=card.isolate_conditions,
        draft_ids=card.draft_ids,
        half_control=card.half_control,
        shape_lora=shape[0] if shape else None,
    )
    return Network(
        denoiser,
        card.prompt,
        card.steps,
        card.variant,
        card.largest_radius,
        card.restored_radius,
        weights=", ".join(map(weights_name, card.loras)),
        origin=card.lora,
        card=card,
    )


def weights_name(lora: str | Path) -> str:
    """Name of a LoRA file with a digest of its content, for provenance."""
    return f"{Path(lora).name} {hashlib.sha256(Path(lora).read_bytes()).hexdigest()[:16]}"


def _place(backbone: Backbone, device: Device, memory: MemoryUse) -> None:
    backbone.tiling = replace(backbone.tiling, batch=memory.tile_batch)
    codec = backbone.codec
    if isinstance(codec, VaeCodec) and memory.vae_tiling:
        codec.vae.enable_tiling()
    if isinstance(codec, VaeCodec) and memory.offload:
        backbone.offload(device)
    else:
        backbone.to(device)


def _placed(network: Network, device: Device, memory: MemoryUse) -> Network:
    for lora in (network.denoiser.lora, network.denoiser.shape_lora):
        if lora is not None:
            lora.to(device)
    return replace(network, denoiser=replace(network.denoiser, cache_gib=memory.cache_gib))
