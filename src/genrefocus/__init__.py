"""Generative refocusing: recover an all-in-focus image, then render depth of field into it.

The control signal

- ``rejection``  the one vocabulary for bad input
- ``optics``     disparity, focus disparity, K and its resolution, defocus map
- ``geometry``   resize, crop and rounding applied to image, depth, mask and K together
- ``photograph`` photographs from their files: pixels, colours, EXIF, sensor widths
- ``estimators`` depth and in-focus mask of a photograph
- ``captioner``  captions of images
- ``focus``      what shall be sharp, and the blur that a photograph was taken with

The method

- ``flow``       the objective: sigma, interpolation, velocity, loss, Euler step
- ``noise``      noise that belongs to a sample
- ``backbone``   FLUX transformers, codec, text, LoRA, the multi-condition forward
- ``sampling``   denoising loop and tiling
- ``denoiser``   conditions to tokens, training loss, sampling
- ``network``    trained networks from their files
- ``network_card`` what sampling has to know about how a network was trained
- ``hub``        a pipeline as a folder: LoRA files under released names, model card
- ``pipeline``   the camera: deblur, depth, focus, defocus map, bokeh
- ``compat``     parity with the released forward, by golden tensors

Data

- ``render``     depth of field: apertures, layered renderer, lens-sampled ground truth, scatter
- ``world``      the simulated world: procedural scenes, cameras, lights; tasks of the tiny base
- ``data``       sample schema, shards, global order, batches
- ``preparation`` photographs, pairs and scenes to shards: sources, routes, gates, ledger
- ``embedded``   the data that the project makes itself
- ``k_search``   the K at which a rendering looks most like a photograph

Measurements

- ``metrics``    image fidelity and controllability
- ``network_methods`` networks as methods of the benchmark
- ``benchmark``  baselines, protocols, figures of single images, statistics, tables, report
- ``report``     HTML pages with images and charts, contact sheets

Runs

- ``configuration`` the Hydra configuration of a run: composed, and checked
- ``preflight``  what would stop a run, found before it begins
- ``runs``       folders of runs and records of their stages
- ``terminal``   output of commands and their progress
- ``writing``    files that take their name when they are whole and on disk
- ``page``       a page in the browser that refocuses
- ``cli``        the ``genrefocus`` command: parses and calls
"""

import sys

__version__ = "0.1.0"

if sys.version_info >= (3, 14):  # Hydra 1.3 fails there, with a traceback of argparse
    print(
        "genrefocus needs Python 3.11, 3.12 or 3.13: make setup PYTHON=python3.12", file=sys.stderr
    )
    raise SystemExit(2)
