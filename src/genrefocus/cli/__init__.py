"""Prepare data, refocus photographs, and measure networks of Generative Refocusing."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from genrefocus.cli.arguments import ARGUMENTS
from genrefocus.terminal import any_terminal, quiet_libraries

COMMANDS = {
    "control": "print the control signal of a photograph with depth: d_f, K, defocus map",
    "exif": "print the exposure facts of photographs, or why they are unusable",
    "render": "render depth of field into a sharp image with depth",
    "refocus": "refocus a photograph: deblur, depth, focus, bokeh",
    "serve": "open a page in the browser that refocuses: click the focus, drag the aperture",
    "compat": "check golden tensors of the released forward against this code",
    "export": "make a folder for the Hugging Face Hub of a run: LoRA files, cards, model card",
    "benchmark": "measure methods on data sets under their protocols: run=latest ... (Hydra)",
    "prepare": "make shards of photographs, pairs or scenes: route=... source=... (Hydra)",
    "caption": "write text files of what images show, by a network such as BLIP",
    "lightfield": "make the sets lf_bokeh and lf_refocus of a folder of light fields",
    "inspect": "show what sets of shards hold: counts, sizes, origin, distributions",
    "calibrate": "propose gates from samples that a person has reviewed",
    "compare": "compare results folders of benchmarks that were measured under one protocol",
    "ablation": "table of a sweep: means, spread over seeds, differences to the baseline, images",
    "weights": "fill TORCH_HOME with the trunks that LPIPS and DISTS need, and check their hashes",
    "doctor": "check set-up, configs, shards, memory and weights before a run; no GPU needed",
    "verify-resume": "prove that a killed and resumed run equals an uninterrupted one",
}


class _UsageError(Exception):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{self.prog}: {message}")


def build_parser() -> argparse.ArgumentParser:
    """Parser with one sub-parser per command; no command is imported."""
    parser = _Parser(prog="genrefocus", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        sub = subparsers.add_parser(name, help=summary, description=summary)
        if name in ARGUMENTS:
            ARGUMENTS[name](sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for wrong input, with one line on stderr."""
    quiet_libraries()
    arguments = list(sys.argv[1:] if argv is None else argv)
    with any_terminal():
        try:
            return _run(arguments)
        except _UsageError as error:
            print(error, file=sys.stderr)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            message = " ".join(str(error).split())
            print(f"genrefocus {arguments[0]}: {message}", file=sys.stderr)
        return 2


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] not in ARGUMENTS and arguments[0] in COMMANDS:
        from genrefocus.cli import applications  # without Hydra for the other commands

        return applications.main(arguments[0], arguments[1:])
    args = build_parser().parse_args(arguments)
    if "check" in args:
        args.check(args)
    module = importlib.import_module(f"genrefocus.cli.{args.command.replace('-', '_')}")
    return int(module.run(args))
