"""Command line of genrefocus: one module per command, parsed here, without logic of its own."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

COMMANDS = {
    "control": "print the control signal of a photograph with depth: d_f, K, defocus map",
    "exif": "print the exposure facts of photographs, or why they are unusable",
    "render": "render depth of field into a sharp image with depth",
    "refocus": "refocus a photograph: deblur, depth, focus, bokeh",
    "compat": "check golden tensors of the released forward against this code",
    "benchmark": "measure methods on data sets under their protocols: run=latest ... (Hydra)",
    "prepare": "make shards of photographs, pairs or scenes: route=... source=... (Hydra)",
    "lightfield": "make the sets lf_bokeh and lf_refocus of a folder of light fields",
    "inspect": "show what sets of shards hold: counts, sizes, origin, distributions",
    "calibrate": "propose gates from samples that a person has reviewed",
    "compare": "compare results folders of benchmarks that were measured under one protocol",
    "ablation": "table of a sweep: means, spread over seeds, differences to the baseline, pictures",
    "weights": "fill TORCH_HOME with the trunks that LPIPS and DISTS need, and verify them",
    "doctor": "check set-up, configs, shards, memory and weights before a run; no GPU needed",
    "verify-resume": "prove that a killed and resumed run equals an uninterrupted one",
}


APPLICATIONS = ("prepare", "benchmark")
"""Commands that are Hydra applications, which read their overrides themselves."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def build_parser(commands: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Parser with one sub-parser per command; only the named commands are imported."""
    parser = _Parser(prog="genrefocus", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        sub = subparsers.add_parser(name, help=summary, description=summary)
        if name in commands and name not in APPLICATIONS:
            _module(name).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for wrong input, with one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wanted = [name for name in arguments[:1] if name in COMMANDS]
    try:
        if arguments and arguments[0] in APPLICATIONS:
            return int(_module(arguments[0]).main(arguments[1:]))
        args = build_parser(wanted).parse_args(arguments)
        return int(_module(args.command).run(args))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"genrefocus {arguments[0]}: {message}", file=sys.stderr)
        return 2


def _module(command: str):  # noqa: ANN202
    return importlib.import_module(f"genrefocus.cli.{command.replace('-', '_')}")
