"""``genrefocus caption``: text files of what images show, to read, correct, and prepare with."""

import argparse

from genrefocus.captioner import Captioner
from genrefocus.data.images import images_below, load_image
from genrefocus.rejection import Rejected
from genrefocus.terminal import Bars, counted
from genrefocus.writing import write_atomically


def run(args: argparse.Namespace) -> int:
    """Captions that are there stay; images that cannot be read are named, and passed over."""
    files = {
        path: (args.output / path.relative_to(args.images)).with_suffix(".txt")
        for path in images_below(args.images)
    }
    if not files:
        raise ValueError(f"no images in {args.images}")
    waiting = [path for path, file in files.items() if not file.is_file()]
    kept, unread = len(files) - len(waiting), 0
    if waiting:
        model, _, revision = args.model.partition("@")
        captioner = Captioner(
            model, revision=revision or None, begin=args.begin, device=args.device
        )
    with Bars() as bars:
        task = bars.add_task("captions", total=len(waiting))
        for first in range(0, len(waiting), args.batch_size):
            batch, images = waiting[first : first + args.batch_size], {}
            for path in batch:
                try:
                    images[path] = load_image(path)
                except Rejected as rejected:
                    unread += 1
                    bars.say(f"{path}: {rejected}", on_terminal=True)
            captions = captioner([*images.values()]) if images else []
            for path, caption in zip(images, captions, strict=True):
                files[path].parent.mkdir(parents=True, exist_ok=True)
                write_atomically(files[path], f"{caption}\n".encode())
            bars.advance(task, len(batch))
    print(
        f"{counted(len(waiting) - unread, 'caption')} written to {args.output}, {kept} were there, "
        f"{counted(unread, 'image')} could not be read"
    )
    return 0
