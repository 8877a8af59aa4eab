"""Peak memory of a training step of FLUX at full width and reduced depth, beside what is tracked.

The step is that of a stage of train.py, on random weights; ``genrefocus doctor`` prints what is
tracked of it on shapes. Measured is the resident memory of this process, on Linux, or with
``--device cuda`` what the allocator gave out. The variable makes glibc give freed memory back::

    MALLOC_MMAP_THRESHOLD_=1048576 python benchmarks/step_memory.py experiment=bokeh_synthetic
"""

import argparse
import json
from collections.abc import Sequence
from unittest.mock import patch

from flux_case import begin_peak, peak_bytes, resident
from hydra.utils import instantiate

from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.quantised import quantise_blocks
from genrefocus.configuration.composing import compose_training, settle_missing, training_stages
from genrefocus.data.batches import micro_batches
from genrefocus.preflight import tracking
from genrefocus.preflight.inputs import ranks_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON line: GiB of each part and of the peaks, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="of train.py, with one stage that trains")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--doubles", type=int, default=2, help="double blocks, of 19 (2)")
    parser.add_argument("--singles", type=int, default=4, help="single blocks, of 38 (4)")
    parser.add_argument("--checkpointing", default="none", help="as backbone.checkpointing (none)")
    args = parser.parse_args(arguments)
    how = int(args.checkpointing) if args.checkpointing.isdigit() else args.checkpointing
    config = compose_training(["scale=paper", *args.overrides])
    settle_missing(config)
    (stage,) = training_stages(config).values()
    depth = {"num_layers": args.doubles, "num_single_layers": args.singles}
    with patch.object(tracking, "FLUX_DEV_CONFIG", FLUX_DEV_CONFIG | depth):
        tracked = tracking.tracked_step(config, stage, how)
        base = tracking.base_of(config, as_loaded=True)
    world, crop = ranks_of(config), stage.datamodule.crop
    batch, _ = micro_batches(stage.global_batch, stage.datamodule.batch_size, world)
    build, ema = instantiate(stage.module), "ema" in config.callbacks
    before = 0 if args.device.startswith("cuda") else resident("VmRSS")
    base.to_empty(device=args.device)
    for one in (*base.parameters(), *base.buffers()):
        one.normal_(std=0.02)
    if config.backbone.quantise is not None:
        quantise_blocks(base.transformer, config.backbone.quantise)
    base.checkpointing = how
    begin_peak(args.device)
    tracking.take_step(build, base, (batch, 3, crop, crop), buckets=world > 1, ema=ema)
    measured = peak_bytes(args.device) - before
    parts = {name: round(size / 2**30, 3) for name, size in tracked.parts.items()}
    peaks = {"tracked": tracked.peak / 2**30, "measured": measured / 2**30}
    shown = {name: round(size, 3) for name, size in peaks.items()}
    print(json.dumps({**parts, **shown, "ratio": round(tracked.peak / measured, 3)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
