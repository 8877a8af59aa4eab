"""One conditioned edit of an image: the step from pictures to tokens and back.

DeblurNet and BokehNet are both edits: from a source image, perhaps a control map or a draft, and a
prompt, to a target image. Training, validation and the camera pipeline encode them here and nowhere
else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from genrefocus.backbone import Backbone, Lora, TextEmbedding
from genrefocus.denoiser import Condition, Denoiser
from genrefocus.flow import Flow
from genrefocus.geometry import View, resize_image, round_up_to_multiple
from genrefocus.noise import noise_like, seeded_generators, to_device
from genrefocus.sampling import DraftIds


@dataclass(frozen=True)
class Edit:
    """A batch of edits.

    Attributes:
        prompts: one a row.
        source: (B, 3, H, W) in [0, 1], the image that is edited.
        control: (B, 1, H, W) defocus map in [0, 1], second condition; or None.
        draft: (B, 3, H, W) in [0, 1], a preliminary result, first condition with shifted ids; or
            None.
    """

    prompts: Sequence[str]
    source: Tensor
    control: Tensor | None = None
    draft: Tensor | None = None

    def to(self, device: torch.device) -> "Edit":
        """The same edit with its images on ``device``."""
        moved = {
            name: value.to(device)
            for name in ("source", "control", "draft")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Encoded:
    """A batch of edits as the denoiser takes them, for any number of losses and pictures.

    Attributes:
        text: embedded prompts.
        conditions: in the released order; the control map is the last, if there is one.
        reference: (B, N, C), the source that is edited.
        noise: (B, N, C), standard normal.
        clean: (B, N, C), the target; None where it is not known.
        size: height and width in px.
    """

    text: TextEmbedding
    conditions: Sequence[Condition]
    reference: Tensor
    noise: Tensor
    clean: Tensor | None
    size: tuple[int, int]


class Editor:
    """Encodes edits for a backbone, and trains or samples a denoiser on them.

    Args:
        backbone: frozen transformer, codec and prompts.
        flow: path and parametrisation.
        loras: adapters on the condition branches.
        guidance: guidance value of the noisy image.
        independent: conditions attend to themselves only.
        draft_ids: position ids of a draft where large images are cut, see :class:`Tiling`.
    """

    def __init__(
        self,
        backbone: Backbone,
        flow: Flow,
        *,
        loras: Sequence[Lora] = (),
        guidance: float = 1.0,
        independent: bool = False,
        draft_ids: DraftIds = "shifted",
    ) -> None:
        self.backbone = backbone
        self.denoiser = Denoiser.of(
            backbone,
            flow,
            loras=tuple(loras),
            guidance=guidance,
            independent=independent,
            tiling=replace(backbone.tiling, ids=draft_ids),
        )

    def mu(self, height: int, width: int) -> float:
        """Time shift of an image of this size."""
        rows, columns = self.backbone.grid(height, width)
        return self.denoiser.shift.mu(rows * columns)

    def loss(
        self, edit: Edit, target: Tensor, sigma: Tensor, generators: Sequence[Generator]
    ) -> Tensor:
        """Flow-matching loss per sample, (B,), towards target (B, 3, H, W) in [0, 1].

        Args:
            edit: the condition images.
            target: what the edit leads to.
            sigma: (B,).
            generators: one a row, so that a sample's noise does not depend on its batch.
        """
        return self.loss_of(self.encode(edit, generators, target), sigma)

    @torch.no_grad()
    def generate(self, edit: Edit, steps: int, generators: Sequence[Generator]) -> Tensor:
        """The edited image (B, 3, H, W) in [0, 1], by ``steps`` Euler steps."""
        return self.picture_of(self.encode(edit, generators), steps)

    def encode(
        self, edit: Edit, generators: Sequence[Generator], target: Tensor | None = None
    ) -> Encoded:
        """An edit, and where it is known its target (B, 3, H, W) in [0, 1], as tokens."""
        height, width = edit.source.shape[-2:]
        with torch.no_grad():
            conditions, reference = self._conditions(edit, generators)
            clean = None if target is None else self.backbone.encode_image(target, generators)
        text, noise = self.backbone.embed(edit.prompts), noise_like(reference, generators)
        return Encoded(text, conditions, reference, noise, clean, (height, width))

    def with_control(
        self, encoded: Encoded, control: Tensor, generators: Sequence[Generator]
    ) -> Encoded:
        """The same edit by another control map (B, 1, H, W) in [0, 1]."""
        with torch.no_grad():
            last = Condition(self.backbone.encode_control(control, generators))
        return replace(encoded, conditions=[*encoded.conditions[:-1], last])

    def loss_of(self, encoded: Encoded, sigma: Tensor) -> Tensor:
        """Flow-matching loss per sample (B,) at sigma (B,), towards the target."""
        assert encoded.clean is not None, "there is no loss without a target"
        return self.denoiser.loss(
            encoded.text,
            encoded.clean,
            encoded.noise,
            encoded.conditions,
            encoded.reference,
            self.backbone.grid(*encoded.size),
            to_device(sigma, encoded.clean.device),
        )

    @torch.no_grad()
    def picture_of(self, encoded: Encoded, steps: int) -> Tensor:
        """The edited image (B, 3, H, W) in [0, 1], by ``steps`` Euler steps."""
        tokens = self.denoiser.sample(
            encoded.text,
            encoded.noise,
            encoded.conditions,
            encoded.reference,
            self.backbone.grid(*encoded.size),
            steps,
        )
        return self.backbone.decode(tokens, *encoded.size)

    def _conditions(
        self, edit: Edit, generators: Sequence[Generator]
    ) -> tuple[list[Condition], Tensor]:
        """Conditions in the released order, and the tokens of the source that is edited."""
        conditions = []
        if edit.draft is not None:
            shift = (0, self.backbone.tiling.size)
            conditions.append(Condition(self.backbone.encode_image(edit.draft, generators), shift))
        source = self.backbone.encode_image(edit.source, generators)
        conditions.append(Condition(source))
        if edit.control is not None:
            conditions.append(Condition(self.backbone.encode_control(edit.control, generators)))
        return conditions, source


def edit_pictures(
    editor: Editor,
    pictures: Tensor,
    *,
    prompt: str,
    steps: int,
    seed: int,
    numbers: Sequence[int] | None = None,
) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] of any size, edited without further conditions; same shape.

    Sides that are no multiple of a token are scaled up to one and back. A picture's noise is that
    of the seed and its number, whatever its neighbours; without numbers all have number 0.
    """
    height, width = pictures.shape[-2:]
    token = editor.backbone.pixels_per_token
    whole = torch.stack([round_up_to_multiple(View(one), token).image for one in pictures])
    edit = Edit([prompt] * len(whole), whole.to(editor.backbone.device))
    noise = seeded_generators(seed, [0] * len(whole) if numbers is None else numbers)
    edited = editor.generate(edit, steps, noise)
    return torch.stack([resize_image(one, height, width) for one in edited.float().cpu()])
