"""Metrics compute in float32, whatever precision the model beside them runs in."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.backends import cudnn

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(measure: Callable[P, R]) -> Callable[P, R]:
    """A function of tensors that computes in float32: no autocast, no TF32, no half inputs.

    SSIM subtracts squares that are nearly equal, so that eight bits of mantissa leave nothing of
    it. Convolutions on a GPU use ten bits (TF32) by default.

    Args:
        measure: takes at least one tensor; those of floating point are passed on as float32.
    """

    @functools.wraps(measure)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        with _float32(given[0].device.type):
            return measure(*map(_widened, args), **{k: _widened(x) for k, x in kwargs.items()})

    return computed


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def _float32(device_type: str) -> Iterator[None]:
    matmul = torch.get_float32_matmul_precision()
    convolution = cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
    with torch.autocast(device_type, enabled=False), convolution:
        try:
            if matmul != "highest":
                torch.set_float32_matmul_precision("highest")
            yield
        finally:
            if matmul != "highest":
                torch.set_float32_matmul_precision(matmul)
