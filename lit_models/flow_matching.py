"""Training of a conditioned flow by LoRA: step, optimiser, validation, LoRA-sized checkpoint."""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from genrefocus.backbone import Backbone, Lora
from genrefocus.backbone.lora import load_lora
from genrefocus.denoiser import Conditions, Denoiser, Latents
from genrefocus.flow import Flow, SigmaDistribution
from genrefocus.metrics.held_out_loss import SIGMAS, HeldOutLoss
from genrefocus.network import Network
from genrefocus.network_card import TRAINED_OPTIONS, NetworkVariant
from genrefocus.noise import seeded_generators, to_device
from lit_models.fidelity import Fidelity
from lit_models.training import Batch, OptimizerFactory, TrainingModule

PHOTOGRAPHS = "in_the_wild"  # the route whose all-in-focus images, depth and labels are estimates


class FlowMatching(TrainingModule):
    """Flow matching on a frozen backbone with LoRA on the condition branches.

    The backbone is no submodule: checkpoints, EMA and DDP see the LoRA alone. Subclasses define the
    :meth:`conditions` of a batch and its :meth:`target`.

    Args:
        backbone: shared, frozen.
        flow: path and parametrisation.
        sigma: distribution of sigma in training.
        rank: LoRA rank, alpha = rank.
        prompt: for samples without their own.
        guidance: guidance value of the noisy image.
        steps: Euler steps of generated images.
        optimizer: factory over parameters.
        warmup_steps: learning rate rises linearly; the first update already has 1/warmup_steps.
        decay_steps: cosine decay to zero after warm-up, ends here; None keeps the rate constant.
        seed: of LoRA initialisation, sigma and noise.
        init_lora: LoRA file to start from; its rank must be ``rank``.
        validation_sigmas: sigmas of the held-out loss.
        radius_bins: upper edges, in px, of the bins of mean blur radius that the held-out loss is
            split by.
        isolate_conditions: a condition attends to itself alone.
        half_control: the control map enters at half resolution, see :class:`Denoiser`.
        failure_dir: where the keys of a batch with a non-finite loss are written.
    """

    #: the task, and the names of the LoRA file and of its peft adapter as released
    task: Literal["deblur", "bokeh"]
    lora_file: str
    adapter: str
    variant: NetworkVariant
    #: whether the LoRA is that of the shape of an aperture, beside a frozen one
    shaped = False

    def __init__(
        self,
        backbone: Backbone,
        *,
        flow: Flow,
        sigma: SigmaDistribution,
        rank: int,
        prompt: str,
        guidance: float,
        steps: int,
        optimizer: OptimizerFactory,
        warmup_steps: int,
        decay_steps: int | None,
        seed: int,
        init_lora: str | Path | None = None,
        validation_sigmas: Sequence[float] = SIGMAS,
        radius_bins: Sequence[float] = (1.0, 2.0, 4.0),
        isolate_conditions: bool = False,
        half_control: bool = False,
        failure_dir: str | Path = ".",
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            warmup_steps=warmup_steps,
            decay_steps=decay_steps,
            failure_dir=failure_dir,
            remedy="Inspect these samples, lower the learning rate, or train in fp32.",
        )
        generator = torch.Generator().manual_seed(seed)
        self.lora = Lora.for_transformer(
            backbone.transformer, rank, generator=generator, shaped=self.shaped
        )
        if init_lora is not None:
            loaded = load_lora(init_lora, backbone.transformer)
            if loaded.rank != rank:
                raise ValueError(
                    f"{init_lora} has rank {loaded.rank}, the stage asks for rank {rank}"
                )
            self.lora.load_released_state(loaded.released_state(), source=str(init_lora))
        # In a function: an averaged copy of this module shares it, and with it the frozen base.
        self._backbone = lambda: backbone
        self.flow, self.guidance = flow, guidance
        self.isolate_conditions, self.half_control = isolate_conditions, half_control
        self.sigma, self.prompt, self.steps, self.seed = sigma, prompt, steps, seed
        self.validation_sigmas = tuple(validation_sigmas)
        self.held_out: Any = nn.ModuleDict(
            {
                "all": HeldOutLoss(validation_sigmas, radius_bins, "val/loss"),
                "photographs": HeldOutLoss(validation_sigmas, radius_bins, "val/loss_photographs"),
            }
        )
        self.fidelity = Fidelity()
        _ = self.denoiser  # refuses at once what the backbone does not take

    @property
    def backbone(self) -> Backbone:
        """Frozen, and shared by all stages."""
        return self._backbone()

    @property
    def denoiser(self) -> Denoiser:
        """The network with the LoRA of this module."""
        return Denoiser(
            self.backbone,
            self.flow,
            self.lora,
            guidance=self.guidance,
            isolate_conditions=self.isolate_conditions,
            half_control=self.half_control,
        )

    @property
    def network(self) -> Network:
        """This module as a network for use outside of training."""
        return Network(self.denoiser, self.prompt, self.steps, self.variant, seed=self.seed)

    @property
    def lora_metadata(self) -> dict[str, str]:
        """Of its LoRA files: the adapter, and how it is sampled other than as released."""
        options = {name: "true" for name in TRAINED_OPTIONS if getattr(self, name)}
        return {"adapter": self.adapter, **options}

    def export(self, folder: Path) -> dict[str, Any]:
        """Write its LoRA into a folder; what a card says of it, beside what all cards say."""
        self.lora.save(folder / self.lora_file, metadata=self.lora_metadata)
        return {"lora": self.lora_file, "rank": self.lora.rank}

    def conditions(self, batch: Batch) -> Conditions:
        """What the network is given."""
        raise NotImplementedError

    def target(self, batch: Batch) -> Tensor:
        """What it should return, (B, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def prompts(self, batch: Batch) -> list[str]:
        """A sample's own prompt, or the stage's."""
        return [own or self.prompt for own in batch["prompt"]]

    # training

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        return self.lora.parameters()

    def setup(self, stage: str) -> None:
        self.backbone.to(self.device)

    def ready_on(self, device: torch.device) -> Self:
        """For use without a trainer: LoRA and backbone on ``device``, in evaluation mode."""
        self.backbone.to(device)
        return self.to(device).eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generators = seeded_generators(self.seed, batch["draw"])
        uniform = torch.stack([torch.rand((), generator=g) for g in generators])
        conditions = self.conditions(batch)
        with self.work.forward(conditions.shapes):
            latents = self.denoiser.encode(conditions, generators, self.target(batch))
            sigma = self.sigma.draw(uniform, self.backbone.shift.mu(latents.noise.shape[1]))
            losses = self.denoiser.loss(latents, sigma)
        return self.log_loss(losses, sigma, latents, batch)

    # held-out loss, images, control

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any] | None:
        """Held-out loss of all samples; images and control of those whose truth is exact."""
        target = self.target(batch)
        routes = [route == PHOTOGRAPHS for route in batch["route"]]
        photographs = _rows([n for n, one in enumerate(routes) if one], self.device)
        latents = self.denoiser.encode(
            self.conditions(batch), self._fixed_generators(batch), target
        )
        for index, level in enumerate(self.validation_sigmas):
            loss = self.denoiser.loss(latents, torch.full((len(target),), level))
            radius = batch.get("radius")
            self.held_out["all"].update(index, loss, radius)
            if any(routes):
                part = None if radius is None else radius[photographs]
                self.held_out["photographs"].update(index, loss[photographs], part)
        if all(routes):
            return None
        if any(routes):
            batch = select(batch, [n for n, one in enumerate(routes) if not one])
            latents = self.denoiser.encode(self.conditions(batch), self._fixed_generators(batch))
        output = self.denoiser.sample(latents, self.steps)
        if self.is_swept(batch):
            self.fidelity.update_control(self.series(batch, output, latents))
        else:
            self.fidelity.update(output, self.target(batch))
        return {"batch": batch, "image": output}

    def on_validation_epoch_end(self) -> None:
        self.backbone.meet()
        for loss in self.held_out.values():
            self.log_dict(loss.compute(), sync_dist=False)
            loss.reset()
        self.log_dict(self.fidelity.compute_and_reset(), sync_dist=False)

    def panel(self, batch: Batch, output: Tensor) -> dict[str, Tensor | None]:
        """Columns of an image panel by title, each (B, C, H, W) or None."""
        return {
            "input": self.conditions(batch).source,
            "defocus map": batch.get("defocus"),
            "output": output,
            "target": self.target(batch),
        }

    def is_swept(self, batch: Batch) -> bool:
        """Whether the batch holds scenes with their truth at all of the protocol's K."""
        return False

    def series(self, batch: Batch, output: Tensor, latents: Latents) -> Tensor:
        """The network's images at the protocol's K, (B, 4, 3, H, W).

        Args:
            batch: of scenes, see :meth:`is_swept`; its own K is the protocol's largest.
            output: at the batch's own K.
            latents: of the batch.
        """
        raise NotImplementedError

    def _fixed_generators(self, batch: Batch) -> list[torch.Generator]:
        """Noise of a sample's key: the same at every validation, in any batch, on any rank."""
        return seeded_generators(self.seed, (zlib.crc32(key.encode()) for key in batch["key"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["rank"] = self.lora.rank


def select(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch."""
    return {
        name: value[_rows(rows, value.device)]
        if isinstance(value, Tensor)
        else [value[n] for n in rows]
        for name, value in batch.items()
    }


def _rows(rows: Sequence[int], device: torch.device) -> Tensor:
    return to_device(torch.tensor(rows, dtype=torch.long), device)
