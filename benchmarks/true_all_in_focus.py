"""What photographs would teach if DeblurNet were perfect: pseudo all-in-focus images made true.

Takes the shards that a training made of the simulated camera roll, and writes the same samples with
the true all-in-focus images of their scenes. Prints how near to these the pseudo images and the
photographs themselves are. Then, from the checkout::

    python train.py -m sweep=data_routes cell=a_b sweep_name=true_aif \\
      inputs.in_the_wild=OUT
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

import torch
from torch import Tensor

from genrefocus.data.sample import Sample, to_float
from genrefocus.data.shards import ShardDataset, write_set
from genrefocus.embedded.pairs import EmbeddedSet
from genrefocus.embedded.sets import draw_roll_shot
from genrefocus.metrics.psnr import psnr
from genrefocus.preparation.ledger import SUMMARY_NAME, read_summary
from genrefocus.preparation.reblurring import reblurred
from genrefocus.render.scene import scene_aif
from genrefocus.render.tone import to_bytes
from genrefocus.terminal import Bars
from genrefocus.writing import write_json


def true_image(roll: EmbeddedSet, number: int) -> Tensor:
    """(3, H, W) uint8, all in focus, by the camera of the ``number``-th shot of the roll."""
    scene, exposure, _ = draw_roll_shot(roll, number)
    return to_bytes(scene_aif(scene), exposure.body.contrast)


def decibels(image: Tensor, truth: Tensor) -> float:
    """PSNR of two images (3, H, W) uint8."""
    return float(psnr(to_float(image)[None], to_float(truth)[None])[0])


def main() -> None:
    """Write the samples and print what was replaced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path, help="<run>/in_the_wild/shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=2026, help="of the embedded data")
    parser.add_argument("--size", type=int, default=64, help="of the embedded data")
    args = parser.parse_args()
    torch.set_num_threads(1)
    roll = EmbeddedSet("camera_roll", "train", args.seed, args.size)
    for split in ("train", "val", "test"):
        pseudo: list[float] = []
        photographs: list[float] = []
        samples = ShardDataset(args.shards / split)
        parameters = {"kind": "true all-in-focus images", "of": samples.fingerprint}
        true_samples: list[Sample] = []
        for sample in (samples[number] for number in range(len(samples))):
            truth = true_image(roll, int(sample.key[4:9]))
            pseudo.append(decibels(sample.aif, truth))
            photographs.append(decibels(sample.bokeh, truth))
            true_samples.append(dataclasses.replace(sample, aif=truth))
        write_set(args.out / split, true_samples, parameters=parameters, samples_per_shard=500)
        means = [statistics.fmean(values) for values in (pseudo, photographs)]
        print(f"{split}: {len(pseudo)}, pseudo {means[0]:.2f} dB, photograph {means[1]:.2f} dB")
    with Bars(True) as bars:
        task = bars.add_task("measuring", total=None, note="")
        measured = reblurred(
            ShardDataset(args.out / "train"),
            read_summary(args.shards)["reblurred"]["photographs"],
            lambda done, total: bars.update(task, completed=done, total=total),
        )
    write_json(args.out / SUMMARY_NAME, {"reblurred": measured})
    print(f"restored radius, px: {measured.get('restored_radius', measured.get('rejected'))}")


if __name__ == "__main__":
    main()
