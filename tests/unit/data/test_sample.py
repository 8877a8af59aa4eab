"""The sample codec: exact where it must be, 16 bits of disparity, refusals that explain."""

import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from genrefocus.data.sample import (
    SCHEMA_VERSION,
    Sample,
    decode,
    decode_metadata,
    encode,
)
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.render.scene import scene_aif
from genrefocus.render.tone import to_bytes
from genrefocus.world.scenes import procedural_scene

HEIGHT, WIDTH = 20, 28


def make_sample(key: str = "scene-0", **changes: object) -> Sample:
    rng = np.random.default_rng(7)

    def image() -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8))

    fields: dict = {
        "key": key,
        "route": "synthetic",
        "split": "train",
        "aif": image(),
        "bokeh": image(),
        "disparity": torch.from_numpy(rng.uniform(0, 2.5, (HEIGHT, WIDTH)).astype(np.float32)),
        "strength": BlurStrength(3.7, HEIGHT, WIDTH),
        "focus_disparity": 0.6,
        "mask": torch.from_numpy(rng.random((HEIGHT, WIDTH)) < 0.3),
        "prompt": "a sign that says ÖL",
        "extras": {"pre_deblur": image()},
        "provenance": {"source": "made up", "seed": 7},
    }
    return Sample(**{**fields, **changes})


def test_round_trip() -> None:
    sample = make_sample()
    back = decode(encode(sample))
    for name in ("key", "route", "split", "strength", "focus_disparity", "prompt", "provenance"):
        assert getattr(back, name) == getattr(sample, name)
    for name in ("aif", "bokeh", "mask"):
        assert torch.equal(getattr(back, name), getattr(sample, name))
    assert torch.equal(back.extras["pre_deblur"], sample.extras["pre_deblur"])


def test_unknown_blur_stays_unknown() -> None:
    fields = dict.fromkeys(("disparity", "strength", "focus_disparity", "mask", "prompt"))
    back = decode(encode(make_sample(route="deblur", extras={}, **fields)))
    assert all(getattr(back, name) is None for name in fields)


def test_disparity_keeps_its_ends_and_16_bits() -> None:
    sample = make_sample()
    sample.disparity[0, 0] = 0.0  # infinitely far must stay so
    back = decode(encode(sample)).disparity
    assert back[0, 0] == 0
    spread = float(sample.disparity.max() - sample.disparity.min())
    assert float((back - sample.disparity).abs().max()) <= spread / 65535 / 2 + 1e-7
    radii = [blur_radius(d, 0.6, sample.strength) for d in (back, sample.disparity)]
    assert float((radii[0] - radii[1]).abs().max()) < 1e-3  # px


def test_flat_disparity_is_exact() -> None:
    flat = torch.full((HEIGHT, WIDTH), 0.3)
    assert torch.equal(decode(encode(make_sample(disparity=flat))).disparity, flat)


def test_members_are_what_other_readers_expect() -> None:
    """Pillow and json alone recover the disparity; no defocus map is stored."""
    sample = make_sample()
    members = encode(sample)
    assert list(members) == [
        "json",
        "aif.png",
        "bokeh.png",
        "disparity.png",
        "mask.png",
        "pre_deblur.png",
    ]
    meta = json.loads(members["json"])
    levels = Image.open(io.BytesIO(members["disparity.png"]))
    assert levels.mode == "I;16"
    disparity = meta["disparity"]["offset"] + meta["disparity"]["scale"] * np.array(levels, float)
    assert np.allclose(disparity, sample.disparity.numpy(), atol=3e-5)
    assert (meta["split"], meta["provenance"]["seed"]) == ("train", 7)


def test_equal_samples_encode_to_equal_bytes() -> None:
    assert encode(make_sample()) == encode(make_sample())


def test_jpeg_images_are_near_and_maps_as_exact_as_ever() -> None:
    scene = to_bytes(scene_aif(procedural_scene(3, 96, 96)))
    fields = dict.fromkeys(("disparity", "strength", "focus_disparity", "mask"))
    sample = make_sample(aif=scene, bokeh=scene.flip(-1), extras={"blurry": scene}, **fields)
    members = encode(sample, "jpeg")
    assert list(members) == ["json", "aif.jpg", "bokeh.jpg", "blurry.jpg"]
    back = decode(members)
    for name, given in {"aif": scene, "bokeh": scene.flip(-1)}.items():
        error = (getattr(back, name).double() - given).square().mean()
        assert 0 < float(error) < 255**2 / 10**3.5  # above 35 dB; quality 90 stays below 33
        with Image.open(io.BytesIO(members[f"{name}.jpg"])) as image:
            assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # no chroma subsampling
            pillow = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(getattr(back, name), pillow)
    assert torch.equal(back.extras["blurry"], back.aif)
    exact, near = (decode(encode(make_sample(), form)) for form in ("png", "jpeg"))
    assert torch.equal(near.disparity, exact.disparity)
    assert torch.equal(near.mask, exact.mask)
    assert near.strength == exact.strength


def test_lost_detail_is_recorded_for_good() -> None:
    members = encode(make_sample(), "jpeg")
    assert json.loads(members["json"])["image_format"] == "jpeg"
    assert members == encode(make_sample(), "jpeg")
    record = {"format": "jpeg", "quality": 95, "subsampling": "4:4:4"}
    back = decode(members)
    assert back.provenance == {**make_sample().provenance, "image_compression": record}
    assert decode(encode(back)).provenance == back.provenance
    assert "image_compression" not in decode(encode(make_sample())).provenance
    with pytest.raises(ValueError, match="image format 'gif'; choose from png, jpeg"):
        encode(make_sample(), "gif")  # type: ignore[arg-type]


def test_a_sample_from_before_jpeg_is_read() -> None:
    """Written by hand, as the first version of the code did."""
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    meta = {"schema_version": 1, "key": "x", "route": "deblur", "split": "val"}
    meta |= {"height": 4, "width": 6, "extras": [], "provenance": {}}
    meta |= dict.fromkeys(("k", "focus_disparity", "disparity", "prompt"))
    members = dict.fromkeys(("aif.png", "bokeh.png"), buffer.getvalue())
    back = decode({"json": json.dumps(meta).encode(), **members})
    assert torch.equal(back.aif, torch.from_numpy(image).permute(2, 0, 1))
    assert back.aif.is_contiguous()


def test_another_schema_version_is_refused() -> None:
    members = encode(make_sample())
    meta = json.loads(members["json"])
    members["json"] = json.dumps({**meta, "schema_version": SCHEMA_VERSION + 1}).encode()
    with pytest.raises(ValueError, match=f"schema version {SCHEMA_VERSION + 1}.*update this one"):
        decode(members)
    with pytest.raises(ValueError, match="no sample of this project"):
        decode_metadata(b"[1, 2]")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"key": "a.b"}, "key 'a.b'"),
        ({"route": "invented"}, "route 'invented'; known: synthetic"),
        ({"split": "dev"}, "split 'dev'"),
        ({"aif": torch.zeros(3, HEIGHT, WIDTH)}, "aif must be uint8"),
        ({"bokeh": torch.zeros(3, HEIGHT, WIDTH + 1, dtype=torch.uint8)}, "bokeh must be uint8"),
        ({"disparity": torch.full((HEIGHT, WIDTH), float("nan"))}, "must be finite"),
        ({"disparity": torch.full((HEIGHT, WIDTH), -0.1)}, "must be finite and >= 0"),
        ({"disparity": None}, "K without disparity"),
        ({"focus_disparity": None}, "known only together"),
        ({"strength": BlurStrength(1.0, HEIGHT, WIDTH - 1)}, "K is stated for"),
        ({"mask": torch.zeros(HEIGHT, WIDTH)}, "mask must be torch.bool"),
        ({"extras": {"mask": torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)}}, "'mask' cannot"),
    ],
)
def test_a_sample_that_breaks_the_schema_is_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_sample(**changes)


def test_damage_is_named() -> None:
    members = encode(make_sample())
    with pytest.raises(ValueError, match=r"bokeh\.png is damaged"):
        decode({**members, "bokeh.png": members["bokeh.png"][:200]})
    flipped = bytearray(members["aif.png"])
    flipped[len(flipped) // 2] ^= 1
    with pytest.raises(ValueError, match=r"aif\.png is damaged"):
        decode({**members, "aif.png": bytes(flipped)})
    compact = encode(make_sample(), "jpeg")
    with pytest.raises(ValueError, match=r"bokeh\.jpg is damaged"):
        decode({**compact, "bokeh.jpg": compact["bokeh.jpg"][:200]})
    with pytest.raises(ValueError, match=r"aif\.png is missing"):
        decode({name: data for name, data in members.items() if name != "aif.png"})


def test_samples_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_sample().key = "other"  # type: ignore[misc]
