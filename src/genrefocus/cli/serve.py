"""``genrefocus serve``: a page in the browser that refocuses photographs."""

import argparse
import os
import socket
import tempfile
from functools import partial
from pathlib import Path

from genrefocus.cli.inputs import depth_estimator, subject_of
from genrefocus.cli.networks import device_of, pipeline_of
from genrefocus.embedded.examples import build_examples

_DATA = Path("data/embedded")


def run(args: argparse.Namespace) -> int:
    """Load the networks, then answer until interrupted."""
    with (
        socket.create_server((args.host, args.port)) as bound,
        tempfile.TemporaryDirectory(prefix="genrefocus-") as folder,
    ):
        # Uploads and results lie there, and go with the server; Gradio reads both when imported.
        tempfile.tempdir = folder
        os.environ |= {"GRADIO_TEMP_DIR": f"{folder}/page", "GRADIO_ANALYTICS_ENABLED": "False"}
        from genrefocus.page.handlers import Page
        from genrefocus.page.serving import application, server
        from genrefocus.page.session import Service

        device = device_of(args)
        pipeline = pipeline_of(args, device)
        service = Service(
            pipeline,
            args.resize_depth,
            estimator=None if args.depth_model is None else depth_estimator(args, device),
            subject=args.subject_model and partial(subject_of, args=args, device=device),
            long_edge=args.long_edge,
            most_pixels=args.megapixels * 1e6,
            seed=args.seed,
        )
        about = f"Networks: {'/'.join(Path(pipeline.bokeh.origin).parts[-4:-1])}, on {device}."
        page = Page(service, build_examples(_DATA), about)
        app = application(page, args.host, round(args.megabytes * 2**20))
        address = f"http://{args.host}:{bound.getsockname()[1]}"
        print(f"the page is at {address}; Ctrl-C ends it", flush=True)
        server(app).run(sockets=[bound])
    return 0
