"""LoRA for condition branches, in peft's file format under the released key names."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genrefocus.writing import whole

_PREFIX = "transformer."
_KEY = re.compile(r"transformer\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

# Anchored at both ends: a suffix list would also catch the top-level ``proj_out``, which acts on
# the noisy image and so breaks the rule that only condition branches carry LoRA.
_TARGET = re.compile(
    r"x_embedder"
    r"|transformer_blocks\.\d+\.(attn\.to_[qkv]|attn\.to_out\.0|norm1\.linear|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|norm\.linear|proj_mlp|proj_out)"
    r"|pixel_path\.(?!glow).+"  # convolutions of the tiny backbone
)
# Beside these, for the shape of an aperture.
_SHAPED = re.compile(r"pixel_path\.glow")


#: A (rank, in) and B (out, rank) by the name of a layer
Pairs = dict[str, tuple[Tensor, Tensor]]


def low_rank(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``B A x`` for x (..., in), in the dtype of x."""
    return F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype))


def lora_modules(
    transformer: nn.Module, *, shaped: bool = False
) -> dict[str, nn.Linear | nn.Conv2d]:
    """Layers of a FLUX transformer that carry LoRA: 343 in FLUX.1-dev, as released, all linear.

    ``shaped``: with what the tiny backbone has for the shape of an aperture alone.
    """
    return {
        name: module
        for name, module in transformer.named_modules()
        if (_TARGET.fullmatch(name) or (shaped and _SHAPED.fullmatch(name)))
        and isinstance(module, nn.Linear | nn.Conv2d)
    }


def lora_shapes(transformer: nn.Module, *, shaped: bool = False) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of these layers: (out, in), also where they are quantised, or
    (out, in, rows, columns)."""
    return {
        name: (one.out_features, one.in_features)
        if isinstance(one, nn.Linear)
        else tuple(one.weight.shape)
        for name, one in lora_modules(transformer, shaped=shaped).items()
    }


class Lora(nn.Module):
    """Low-rank deltas ``B A x`` for named layers, with alpha = rank, so the scale is 1.

    The weights are fp32 masters; :func:`low_rank` computes in the dtype of its input. The
    transformer is not patched: the forward gives every block the pairs :meth:`below` its name, for
    the slice that a branch occupies, and :meth:`merged` is for convolutions, which act on all
    places alike.

    Args:
        shapes: module name -> shape of its weight, (out, in) or (out, in, rows, columns).
        rank: inner dimension of every pair.
        generator: source of A's random initialisation (kaiming-uniform, as peft), which is drawn on
            the generator's device; B starts at zero.
        device: where the weights live (``meta`` builds shapes only).
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        rank: int,
        *,
        generator: torch.Generator | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA rank must be at least 1, got {rank}")
        self.rank = rank
        self.names = tuple(shapes)
        self.lora_a = nn.ParameterDict()
        self.lora_b = nn.ParameterDict()
        device = torch.device(device)
        drawn_on = generator.device if generator and device.type != "meta" else device
        for name, (n_out, n_in, *kernel) in shapes.items():
            a = torch.empty(rank, n_in, *kernel, device=drawn_on, dtype=torch.float32)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
            self.lora_a[_slot(name)] = nn.Parameter(a.to(device))
            b = torch.zeros(n_out, rank, *(1 for _ in kernel), device=device)
            self.lora_b[_slot(name)] = nn.Parameter(b)

    @classmethod
    def for_transformer(
        cls,
        transformer: nn.Module,
        rank: int,
        *,
        generator: torch.Generator | None = None,
        shaped: bool = False,
    ) -> "Lora":
        """Fresh LoRA for every target module of ``transformer``, on its device."""
        device = next(transformer.parameters()).device
        shapes = lora_shapes(transformer, shaped=shaped)
        return cls(shapes, rank, generator=generator, device=device)

    def below(self, prefix: str) -> Pairs:
        """A and B of the layers whose names begin with ``prefix``, by the rest of the name."""
        return {
            name.removeprefix(prefix): (self.lora_a[_slot(name)], self.lora_b[_slot(name)])
            for name in self.names
            if name.startswith(prefix)
        }

    def merged(
        self, prefix: str, module: nn.Module, onto: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Weights of the convolutions of ``module``, which has the name ``prefix``, plus ``B A``.

        Args:
            onto: weights in place of the module's own, such as those merged with another LoRA.

        Returns:
            name of the weight within the module -> tensor, for ``torch.func.functional_call``.
        """
        weights = dict(onto or {})
        for name, (a, b) in self.below(f"{prefix}.").items():
            own = weights.get(f"{name}.weight")
            weight = module.get_parameter(f"{name}.weight") if own is None else own
            delta = torch.einsum("or,rikl->oikl", b[..., 0, 0], a)
            weights[f"{name}.weight"] = weight + delta.to(weight.dtype)
        return weights

    def released_state(self) -> dict[str, Tensor]:
        """Tensors under the released names ``transformer.<module>.lora_{A,B}.weight``."""
        state = {}
        for name in self.names:
            state[f"{_PREFIX}{name}.lora_A.weight"] = self.lora_a[_slot(name)].detach()
            state[f"{_PREFIX}{name}.lora_B.weight"] = self.lora_b[_slot(name)].detach()
        return state

    @torch.no_grad()
    def load_released_state(
        self, state: Mapping[str, Tensor], *, source: str = "LoRA state"
    ) -> None:
        """Copy tensors in, key by key.

        Raises:
            ValueError: a key is missing, unknown, or has another shape; the message names them.
        """
        own = self.released_state()
        _require_same_keys(set(own), set(state), source)
        for key, tensor in own.items():
            if tensor.shape != state[key].shape:
                raise ValueError(
                    f"{source}: {key} has shape {tuple(state[key].shape)}, expected "
                    f"{tuple(tensor.shape)}; was it trained with another rank or backbone?"
                )
            tensor.copy_(state[key])

    def save(self, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file, atomically."""
        state = {key: tensor.cpu().contiguous() for key, tensor in self.released_state().items()}
        described = {
            "format": "pt",
            "rank": str(self.rank),
            "alpha": str(self.rank),
            **(metadata or {}),
        }
        with whole(path) as partial:
            save_tensors(state, partial, described)


def read_tensors(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError, ValueError: the file is missing or is no safetensors file; the message
            says ``what`` it should be.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as handle:
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
            return tensors, handle.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error})") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """Metadata of a safetensors file that is known to be one."""
    with safe_open(str(path), framework="pt") as handle:
        return handle.metadata() or {}


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """A safetensors file, whose failures are those of any other file.

    Raises:
        OSError: the disk is full, or the like.
    """
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{path} was not written: {error}") from error


def read_lora(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a LoRA file.

    Raises:
        FileNotFoundError, ValueError: the file is missing, is no safetensors file with LoRA keys,
            or says that its alpha differs from its rank.
    """
    state, metadata = read_tensors(path, "LoRA file")
    unknown = sorted(key for key in state if not _KEY.fullmatch(key))
    if unknown or not state:
        raise ValueError(
            f"{path}: {len(unknown)} keys are not LoRA keys, e.g. {unknown[:3] or 'none at all'}"
        )
    _require_unit_scale(metadata, Path(path))
    return state


def load_lora(path: str | Path, transformer: nn.Module) -> Lora:
    """LoRA from a file with the rank found in it; every target of ``transformer`` must be there.

    Raises:
        ValueError: mixed ranks, or missing, unknown or misshapen keys.
    """
    return lora_from_state(read_lora(path), transformer, source=str(path))


def lora_from_state(state: Mapping[str, Tensor], transformer: nn.Module, *, source: str) -> Lora:
    """As :func:`load_lora`, from tensors under the released names."""
    ranks = {tensor.shape[0] for key, tensor in state.items() if key.endswith("lora_A.weight")}
    if len(ranks) != 1:
        raise ValueError(f"{source}: expected one rank in all modules, found {sorted(ranks)}")
    shaped = any(
        _SHAPED.fullmatch(found["module"]) for found in map(_KEY.fullmatch, state) if found
    )
    # Its own generator: loading must not advance the global one.
    lora = Lora.for_transformer(
        transformer, ranks.pop(), generator=torch.Generator(), shaped=shaped
    )
    lora.load_released_state(state, source=source)
    return lora


def _slot(name: str) -> str:
    return name.replace(".", "/")  # parameter names may not contain dots


def _require_unit_scale(metadata: Mapping[str, str], path: Path) -> None:
    peft = json.loads(metadata.get("lora_adapter_metadata", "{}"))  # as diffusers writes it
    for rank, alpha in (
        (metadata.get("rank"), metadata.get("alpha")),
        (peft.get(f"{_PREFIX}r"), peft.get(f"{_PREFIX}lora_alpha")),
    ):
        if rank is not None and alpha is not None and float(rank) != float(alpha):
            raise ValueError(
                f"{path}: alpha {alpha} differs from rank {rank}; multiply its lora_B tensors by "
                "alpha / rank, for alpha = rank is what is computed here"
            )


def _require_same_keys(expected: set[str], found: set[str], source: str) -> None:
    missing, unknown = sorted(expected - found), sorted(found - expected)
    if missing or unknown:
        raise ValueError(
            f"{source}: {len(missing)} LoRA keys missing (e.g. {missing[:2]}), "
            f"{len(unknown)} unknown (e.g. {unknown[:2]}); it belongs to another backbone"
        )
