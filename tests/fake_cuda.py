"""CUDA tensors on a machine without a GPU: the project's own code runs, mistakes of placing raise.

Tensors "on the GPU" are CPU tensors of a class of their own, :class:`OnCuda`. Every call of torch
is looked at: one that mixes devices raises, and one that makes the host wait for the device is
noted with the line of the project that made it, or raises inside :meth:`FakeCuda.no_sync`. Values
are computed, so results can be compared with those on the CPU.

torch's FakeTensorMode looks for the same mistakes, but its tensors have no values, so metrics,
renderers and loggers end at the first number that the host reads; and in torch's CUDA builds no
backward pass runs on them without a GPU.

What cannot be seen here: memory, time, CUDA's own kernels, and calls below torch's functions.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent
PROJECT = tuple(str(ROOT / name) for name in ("src", "lit_models", "datamodules"))

#: calls whose answer, or its shape, the host has to wait for
READS = {
    *("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__"),
    *("__format__", "__repr__", "__reduce_ex__", "equal", "allclose", "is_nonzero"),
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"),
    *("repeat_interleave", "full", "arange", "linspace", "tensor", "as_tensor", "new_tensor"),
}


class DeviceMismatchError(RuntimeError):
    """Tensors of two devices met."""


class HostSyncError(RuntimeError):
    """The host waited for the device where it should not."""


class OnCuda(Tensor):
    """A tensor on the GPU; ``.to("cuda")`` and its like make it."""


class FakeCuda(TorchFunctionMode):
    """Watches calls of torch.

    Attributes:
        syncs: ``<call> at <file>:<line>`` for every time that the host waited.
    """

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[str] = []
        self._forbidden = False

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Raise where the host would wait."""
        before, self._forbidden = self._forbidden, True
        try:
            yield
        finally:
            self._forbidden = before

    def note(self, call: str) -> None:
        """The host waits."""
        self.syncs.append(f"{call} at {_line_of_project()}")
        if self._forbidden:
            raise HostSyncError(self.syncs[-1])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = _name(func)
        if "_has_compatible_shallow_copy_type" in name:
            # A module that moves gets new parameters, for their class changes.
            return isinstance(args[0], OnCuda) == isinstance(args[1], OnCuda)
        if name == "torch.Tensor.backward" and isinstance(args[0], OnCuda):
            with self:  # Python that runs inside, such as a checkpointed block, is watched too
                tensor, gradient = args[0], kwargs.pop("gradient", None)
                return torch.autograd.backward(tensor, gradient, **kwargs)
        with torch._C.DisableTorchFunction():
            if name in _SPECIAL:
                return _SPECIAL[name](self, func, *args, **kwargs)
            return self._call(name, func, args, kwargs)

    def _call(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        tensors = list(_tensors((args, kwargs)))
        device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        watched = any(isinstance(x, OnCuda) for x in tensors)
        made = device is not None and device.type == "cuda"
        if not watched and not made:
            return func(*args, **kwargs)
        if device is not None:
            kwargs["device"] = CPU
        short = name.rpartition(".")[2]
        if short in READS and kwargs.get("output_size") is None and (watched or "tensor" in short):
            self.note(short)
        elif short in ("__getitem__", "__setitem__", "copy_"):
            self._require_reachable(short, args, tensors)
        elif device is None or made:
            _require_one_device(name, tensors, strict=short in ("cat", "stack", "concat"))
        if isinstance(kwargs.get("generator"), torch.Generator):
            raise DeviceMismatchError(f"{name}: a CPU generator, a CUDA tensor")
        if short in ("__format__", "__repr__", "__reduce_ex__"):
            return func(*map(_plain, args), **kwargs)
        out = func(*args, **kwargs)
        stays = made or (device is None and name != "torch.tensor")
        return _each(out) if stays else out

    def _require_reachable(self, short: str, args: Any, tensors: list[Tensor]) -> None:
        """Of copies and of indices, which may cross from the host to the device."""
        if short == "copy_" and not isinstance(tensors[0], OnCuda):
            self.note("copy_ to the host")
        elif not isinstance(tensors[0], OnCuda):
            raise DeviceMismatchError(f"{short}: {_described(tensors)}")
        elif any(x.ndim and not isinstance(x, OnCuda) for x in tensors[1:]):
            self.note(f"{short} from the host")
        elif short != "copy_":
            given = tensors[2:] if short == "__setitem__" and isinstance(args[2], Tensor) else ()
            for index in tensors[1 : len(tensors) - len(given)]:
                mask = index.dtype == torch.bool and (short == "__getitem__" or given)
                if mask or (not index.ndim and index.dtype != torch.bool):
                    self.note("an index by mask" if mask else "an index by a number")

    # what belongs to the class of a tensor

    def _device(self, func: Any, x: Tensor) -> torch.device:
        return CUDA if isinstance(x, OnCuda) else func(x)

    def _to(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            device, dtype = (CUDA if isinstance(args[0], OnCuda) else CPU), args[0].dtype
            waits = not (kwargs.get("non_blocking") or (len(args) > 1 and args[1]))
        else:
            kwargs.pop("copy", None)
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
            waits = not non_blocking
        here = isinstance(x, OnCuda)
        there = here if device is None else device.type == "cuda"
        if device is not None and device.type not in ("cpu", "cuda"):
            return func(x, *args, **kwargs)
        moved = x if dtype is None else x.to(dtype)
        if here == there:
            return _tagged(moved) if here else moved
        if here:
            self.note("copy to the host")
            return _plain(moved).clone()
        if waits or not getattr(x, "pinned", False):
            self.note("copy from the host")
        return _tagged(moved.clone())

    def _cpu(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._to(Tensor.to, x, CPU)

    def _cuda(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._to(Tensor.to, x, CUDA, *args[1:], **kwargs)

    def _type_as(self, func: Any, x: Tensor, other: Tensor) -> Tensor:
        return self._to(Tensor.to, x, other)

    def _pin_memory(self, func: Any, x: Tensor, *args: Any) -> Tensor:
        assert not isinstance(x, OnCuda), "cannot pin a CUDA tensor"
        pinned = x.clone()
        pinned.pinned = True  # type: ignore[attr-defined]
        return pinned

    def _numpy(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, OnCuda):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return func(x, *args, **kwargs)

    def _deepcopy(self, func: Any, x: Tensor, memo: dict[int, Any]) -> Tensor:
        if not isinstance(x, OnCuda):
            return func(x, memo)
        if id(x) not in memo:
            copied = _tagged(_plain(x).detach().clone()).requires_grad_(x.requires_grad)
            copied._is_param = getattr(x, "_is_param", False)
            memo[id(x)] = copied
        return memo[id(x)]


_SPECIAL: dict[str, Any] = {
    "torch.Tensor." + name: call
    for name, call in {
        "device": FakeCuda._device,
        "is_cuda": lambda gpu, func, x: isinstance(x, OnCuda),
        "is_cpu": lambda gpu, func, x: not isinstance(x, OnCuda),
        "is_pinned": lambda gpu, func, x, *args: getattr(x, "pinned", False),
        "to": FakeCuda._to,
        "cpu": FakeCuda._cpu,
        "cuda": FakeCuda._cuda,
        "type_as": FakeCuda._type_as,
        "pin_memory": FakeCuda._pin_memory,
        "numpy": FakeCuda._numpy,
        "__array__": FakeCuda._numpy,
        "__deepcopy__": FakeCuda._deepcopy,
    }.items()
}


class _Accelerator(Accelerator):
    """Of the one fake device, for Lightning."""

    def setup_device(self, device: torch.device) -> None: ...
    def teardown(self) -> None: ...
    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return 1

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [CUDA]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "fake_cuda"


def strategy() -> SingleDeviceStrategy:
    """For ``Trainer(strategy=...)``: a run on the fake device."""
    return SingleDeviceStrategy(device=CUDA, accelerator=_Accelerator())


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """``device="cuda"`` works inside, in this thread."""
    gpu = FakeCuda()
    group = torch._C._group_tensors_by_device_and_dtype  # of gradients that are clipped together

    def by_class(lists: list[list[Tensor]], with_indices: bool) -> dict[Any, Any]:
        place = CUDA if any(isinstance(x, OnCuda) for x in lists[0]) else CPU
        return {(place, dtype): some for (_, dtype), some in group(lists, with_indices).items()}

    with patch.object(torch._C, "_group_tensors_by_device_and_dtype", by_class), gpu:
        yield gpu


@cache
def _name(func: Any) -> str:
    return (resolve_name(func) or str(func)).removesuffix(".__get__")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one)


def _each(out: Any) -> Any:
    if isinstance(out, tuple | list) and type(out) in (tuple, list):
        return type(out)(_each(one) for one in out)
    if isinstance(out, tuple) and any(isinstance(x, Tensor) for x in out):  # torch.return_types
        return type(out)(_tagged(one) for one in out)
    return _tagged(out)


def _tagged(value: Any) -> Any:
    if isinstance(value, Tensor) and not isinstance(value, OnCuda):
        return value.as_subclass(OnCuda)
    return value


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, OnCuda) else value


def _require_one_device(name: str, tensors: list[Tensor], *, strict: bool) -> None:
    """Numbers (tensors without dimensions) may come from the host, except where ``strict``."""
    placed = {isinstance(x, OnCuda) for x in tensors if x.ndim or strict or isinstance(x, OnCuda)}
    if len(placed) > 1:
        raise DeviceMismatchError(f"{name}: {_described(tensors)}")


def _described(tensors: list[Tensor]) -> str:
    names = ("cpu", "cuda")
    return ", ".join(f"{names[isinstance(x, OnCuda)]} {list(x.shape)}" for x in tensors)


def _line_of_project() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PROJECT):
            return f"{Path(file).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "no line of the project"
