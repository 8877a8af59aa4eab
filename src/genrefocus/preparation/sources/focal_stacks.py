"""Focal stacks, one in a folder: of each frame the all-in-focus image is the sharp counterpart."""

import functools
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from PIL import Image

from genrefocus.data.focal_stack import LEAST, FocalStack, all_in_focus
from genrefocus.data.sample import to_uint8
from genrefocus.preparation.item import ImageFile
from genrefocus.preparation.sources.listing import Scan, ScannedSource, images_below
from genrefocus.preparation.sources.paired import PAIR
from genrefocus.rejection import Reason


@dataclass(frozen=True, kw_only=True)
class AllInFocus(ImageFile):
    """The all-in-focus image of a stack, made when it is read; ``path`` is the stack's folder."""

    stack: FocalStack

    def read(self) -> bytes:
        return _fused(self.stack)


@functools.lru_cache(maxsize=2)
def _fused(stack: FocalStack) -> bytes:
    file, image = io.BytesIO(), to_uint8(all_in_focus(*stack.read()))
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class FocalStacks(ScannedSource):
    """Every folder of frames is a stack; a frame is an item, with its number as a fact.

    Frames go by the numbers in their names. In the layout of Learn2Refocus' set, whose folders end
    in ``<size>/undistorted/<camera>``, all cameras show one scene.

    Args:
        root: searched with its sub-folders.
        index: patterns of the name of an index map beside the frames, without suffix.
        first: number of the first frame in index maps; smaller values mark pixels without one.
        near: which end of a stack is focused nearest.
        test: text file of the scenes for testing, one folder name a line; the others are for
            training. None: there are no splits.
    """

    index: Sequence[str] = ("*index*", "*idx*", "*depthmap*")
    first: int = 1
    near: Literal["first", "last"] = "first"
    test: str | None = None

    name = "focal_stacks"
    roles = PAIR

    def stacks(self) -> dict[str, tuple[FocalStack, str | None]]:
        """Folder of a stack, relative to the root -> the stack and its split."""
        return {
            sharp.path.relative_to(self.root).as_posix(): (sharp.stack, item.split)
            for item in self.items()
            if isinstance(sharp := item.images["sharp"], AllInFocus)
        }

    def _scan(self, found: Scan) -> None:
        folders: defaultdict[Path, list[Path]] = defaultdict(list)
        for path in images_below(found.root, "focal stacks"):
            folders[path.parent].append(path)
        test = None if self.test is None else set(Path(self.test).read_text().splitlines())
        for folder, files in folders.items():
            maps = [file for file in files if self._is_map(file)]
            frames = sorted(set(files) - set(maps), key=_by_numbers)
            if len(maps) > 1:
                names = ", ".join(map(found.name, maps))
                found.reject(folder, Reason.COUNTERPART_AMBIGUOUS, names, "keep one index map")
            elif len(frames) < LEAST:
                detail = f"a focal stack is a folder of {LEAST} frames or more"
                found.reject(folder, Reason.FILE_MISSING, f"{len(frames)} frames", detail)
            else:
                index, near = (maps[0] if maps else None), self.near == "first"
                stack = FocalStack(tuple(frames), index, self.first, near)
                self._add(found, folder, stack, test)
        if test is not None and all(item.split == "train" for item in found.items):
            raise ValueError(f"{self.test} names none of the scenes in {found.root}")

    def _is_map(self, file: Path) -> bool:
        return any(fnmatch(file.stem.lower(), pattern) for pattern in self.index)

    def _add(self, found: Scan, folder: Path, stack: FocalStack, test: set[str] | None) -> None:
        parts = folder.relative_to(found.root).parts
        scene = "/".join(parts[:-3] if parts[-2:-1] == ("undistorted",) else parts)
        scene = scene or found.root.resolve().name
        split = None if test is None else "test" if Path(scene).name in test else "train"
        sharp = AllInFocus(folder, stack=stack)
        for number, frame in enumerate(stack.frames):
            facts = {"frame": number, "frames": len(stack.frames)}
            images: dict[str, Path | ImageFile] = {"sharp": sharp, "photo": frame}
            found.add(frame, images, scene=scene, split=split, facts=facts)


def _by_numbers(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", path.stem)], path.name
