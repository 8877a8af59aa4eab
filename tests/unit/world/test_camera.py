"""The simulated camera: files that real readers understand, and whose EXIF leads back to K."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from genrefocus.metrics.psnr import psnr
from genrefocus.optics import BlurStrength, blur_radius, blur_strength_from_exif, visible_blur
from genrefocus.photograph.exif import read_exposure
from genrefocus.render.lens import LensCharacter, render_lens, strongest
from genrefocus.render.scene import scene_disparity
from genrefocus.render.tone import linear_to_srgb, with_contrast
from genrefocus.world.camera import (
    Exposure,
    Shot,
    as_jpeg,
    draw_exposure,
    photograph,
    take_photo,
)
from genrefocus.world.cameras import BODIES, HELDOUT_LENS, LENSES, draw_lens
from genrefocus.world.estimates import Estimates, estimate
from genrefocus.world.scenes import procedural_scene

ROLL = 24


def shoot(seed: int, path: Path) -> tuple[Shot, Estimates]:
    rng = np.random.default_rng([1, seed])
    scene = procedural_scene(seed, *((48, 32) if seed % 3 == 0 else (32, 48)), margin=10)
    shot = take_photo(scene, draw_exposure(scene, rng, split="test"), path, rng=rng)
    return shot, estimate(shot, rng)


@pytest.fixture(scope="module")
def roll(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Shot, Estimates]]:
    folder = tmp_path_factory.mktemp("roll")
    paths = [folder / f"{seed}.jpg" for seed in range(ROLL)]
    return [(path, *shoot(seed, path)) for seed, path in enumerate(paths)]


def test_k_from_the_file_is_k_of_the_shot(roll: list[tuple[Path, Shot, Estimates]]) -> None:
    """Up to the rounding of the 35 mm equivalent to whole millimetres."""
    sources = set()
    for path, shot, _ in roll:
        facts = read_exposure(path)
        sources.add(facts.sensor_width_source)
        assert (facts.make, facts.model) == ("Simulated", shot.exposure.body.model)
        assert facts.f_number == shot.exposure.f_number
        size = shot.scene.height, shot.scene.width
        labelled = blur_strength_from_exif(facts, shot.exposure.focus_disparity, *size)
        assert labelled.k == pytest.approx(shot.strength.k, rel=0.03)
        assert (max(facts.width, facts.height), facts.flags.count("resized")) == (48, 0)
    assert sources == {"focal_length_35mm", "focal_plane"}


def test_the_upright_image_is_the_rendered_one(roll: list[tuple[Path, Shot, Estimates]]) -> None:
    orientations = set()
    for path, shot, _ in roll:
        orientations.add(shot.orientation)
        with Image.open(path) as file:
            upright = np.asarray(ImageOps.exif_transpose(file), dtype=np.float32)
        truth = photograph(
            shot.scene,
            body=shot.exposure.body,
            lens=shot.exposure.lens,
            focus_disparity=shot.exposure.focus_disparity,
            strength=shot.strength,
            stop=shot.exposure.stop,
            noise=None,
        )
        error = upright - truth.permute(1, 2, 0).numpy()
        assert np.abs(error).mean() < 4.0
    assert orientations == {1, 6, 8}


def test_k_follows_equation_3() -> None:
    """50 mm, F 1.8, 2 m, full frame, 1024 px: 20.26 px at 1/m."""
    exposure = Exposure(BODIES[0], LENSES[0], 50.0, 1.8, 0.5)
    assert exposure.sensor_width_mm == 36.0
    assert exposure.strength(683, 1024).k == pytest.approx(20.26, abs=0.005)


def test_photographs_are_reproducible_byte_for_byte(
    roll: list[tuple[Path, Shot, Estimates]], tmp_path: Path
) -> None:
    for seed in (0, 5):
        _, estimates = shoot(seed, tmp_path / "again.jpg")
        assert (tmp_path / "again.jpg").read_bytes() == roll[seed][0].read_bytes()
        assert np.array_equal(estimates.depth, roll[seed][2].depth)
        assert np.array_equal(estimates.mask, roll[seed][2].mask)


def test_blur_stays_in_range_and_focus_on_something(
    roll: list[tuple[Path, Shot, Estimates]],
) -> None:
    greatest = []
    for _, shot, _ in roll:
        disparity = scene_disparity(shot.scene)
        focus = shot.exposure.focus_disparity
        greatest.append(visible_blur(disparity, focus, shot.strength))
        assert float(blur_radius(disparity, focus, shot.strength).min()) < 0.3
    assert max(greatest) <= 6.0
    assert np.median(greatest) > 0.8


def test_estimates_err_as_estimators_do(roll: list[tuple[Path, Shot, Estimates]]) -> None:
    scale, overlap = [], []
    for _, shot, estimates in roll:
        assert estimates.depth.dtype == np.float16 and (estimates.depth > 0).all()
        disparity = scene_disparity(shot.scene)
        inner = torch.from_numpy(estimates.depth.astype(np.float32)) * disparity
        scale.append(float(inner.median().log()))
        radius = blur_radius(disparity, shot.exposure.focus_disparity, shot.strength)
        sharp = (radius <= min(1.0, 0.25 * float(radius.max()))).numpy()
        both = (sharp & estimates.mask).sum() / max(1, (sharp | estimates.mask).sum())
        overlap.append(both)
        if not estimates.on_focus:
            assert both < 0.3
        assert len(np.unique(shot.scene.visible)) > 1
    assert 0.02 < np.std(scale) < 0.1
    assert np.median(overlap) > 0.75


def test_the_held_out_lens_is_in_test_alone() -> None:
    rng = np.random.default_rng(0)
    drawn = {split: [draw_lens(rng, split) for _ in range(300)] for split in ("train", "test")}
    assert set(drawn["train"]) == set(LENSES)
    assert set(drawn["test"]) == {*LENSES, HELDOUT_LENS}
    assert 0.18 < drawn["test"].count(HELDOUT_LENS) / 300 < 0.32
    names = [lens.name for lens in (*LENSES, HELDOUT_LENS)]
    assert len(set(names)) == len(names)


def test_every_lens_has_a_character_that_fits_its_scenes() -> None:
    for lens in (*LENSES, HELDOUT_LENS):
        character = lens.character
        assert 0.0 < character.spherical <= 0.2  # bright rims behind the plane of focus
        assert max(character.chromatic[0], character.chromatic[2]) < character.chromatic[1]
        assert 0.0 < character.vignetting <= 1.0
        assert character.stop == 1.0
        assert character != LensCharacter()


def test_the_opening_is_sampled_more_finely_than_noise_and_jpeg_show() -> None:
    for seed in range(4):
        scene = procedural_scene(seed, 64, 64, lights=0.0, margin=14)
        lens = LENSES[seed]
        most = strongest(scene, 0.8, lens.character).k
        strength = BlurStrength(min(4.0, most), 64, 64)
        shared = {"focus_disparity": 0.8, "strength": strength}
        image = photograph(scene, body=BODIES[0], lens=lens, noise=None, **shared)
        light = render_lens(
            scene,
            positions=lens.aperture.positions(300),
            character=lens.character,
            **shared,
        )
        truth = with_contrast(linear_to_srgb(light), BODIES[0].contrast)
        own = image / 255.0
        assert float(psnr(own[None], truth[None])[0]) > 43.0
        noisy = photograph(
            scene, body=BODIES[0], lens=lens, noise=(400, np.random.default_rng(seed)), **shared
        )
        kept = as_jpeg(noisy) / 255.0
        assert float(psnr(kept[None], own[None])[0]) < 43.0
