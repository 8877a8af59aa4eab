"""Generative refocusing: recover an all-in-focus image, then render depth of field into it.

Where things live:

- ``rejection``  the one vocabulary for bad input
- ``optics``     the control signal: disparity, focus disparity, K and its resolution, defocus map
- ``geometry``   resize, crop and rounding applied to image, depth, mask and K together
- ``decoding``   the one place that opens picture files; ``colours`` makes sRGB of them
- ``exif``       photograph -> exposure facts; ``sensors`` knows the widths of sensors
- ``render``     depth of field: apertures, layered renderer, lens-sampled ground truth, scatter
- ``world``      the simulated world: procedural scenes, cameras, lights; tasks of the tiny base
- ``estimators`` depth and in-focus mask of a photograph
- ``flow``       the objective: sigma, interpolation, velocity, loss, Euler step
- ``backbone``   FLUX transformers, codec, text, LoRA, the multi-condition forward
- ``sampling``   denoising loop and tiling
- ``denoiser``   conditions to tokens, training loss, sampling
- ``network``    trained networks from their files; ``network_card`` says how they are asked
- ``pipeline``   the camera: deblur, depth, focus, defocus map, bokeh
- ``metrics``    image fidelity and controllability
- ``data``       sample schema, shards, global order, batches
- ``benchmark``  protocols, figures of single images, statistics, tables, report
- ``report``     HTML pages with images and charts, of preparations and benchmarks
- ``runs``       folders of runs and records of their stages
- ``configuration`` the Hydra configuration of a run: composed, and checked before it runs
- ``cli``        the ``genrefocus`` command: parses and calls
"""

import sys

__version__ = "0.1.0"

if sys.version_info >= (3, 14):  # Hydra 1.3 fails there, with a traceback of argparse
    print(
        "genrefocus needs Python 3.11, 3.12 or 3.13: make setup PYTHON=python3.12", file=sys.stderr
    )
    raise SystemExit(2)
