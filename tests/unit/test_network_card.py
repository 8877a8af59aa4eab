"""Network cards: what is written comes back, and nothing that does not fit is taken."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from genrefocus.flow import Flow
from genrefocus.network_card import (
    BackboneSource,
    NetworkCard,
    described,
    latest_run,
    networks_of,
    read_network_card,
    released_card,
    require_backbone,
    write_network_card,
)

MakeCard = Callable[..., NetworkCard]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "checkout" / "weights" / "base.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path


def stage(folder: Path, card: NetworkCard) -> NetworkCard:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / card.lora).touch()
    write_network_card(folder, card)
    (folder.parent / "config.yaml").write_text(f"trial: {str(card.trial).lower()}")
    return read_network_card(folder)


def test_a_card_comes_back_as_it_was_written(
    base: Path, tmp_path: Path, tiny_card: MakeCard
) -> None:
    card = tiny_card("bokeh", base, variant="direct", isolate_conditions=True, half_control=True)
    found = stage(tmp_path / "run" / "bokehnet", card)
    assert found.lora == str(tmp_path / "run" / "bokehnet" / card.lora)
    assert replace(found, written="", backbone=card.backbone, lora=card.lora) == card
    assert require_backbone(found).path == str(base)
    flux = replace(card, backbone=BackboneSource("flux_dev", "someone/FLUX.1-dev"))
    assert stage(tmp_path / "flux", flux).backbone == flux.backbone


def test_a_checkout_may_be_moved(base: Path, tmp_path: Path, tiny_card: MakeCard) -> None:
    stage(tmp_path / "checkout" / "outputs" / "run" / "bokehnet", tiny_card("bokeh", base))
    shutil.move(tmp_path / "checkout", tmp_path / "moved")
    folder = tmp_path / "moved" / "outputs" / "run" / "bokehnet"
    source = require_backbone(read_network_card(folder))
    assert Path(source.path) == tmp_path / "moved" / "weights" / "base.safetensors"


def test_other_base_weights_are_refused(base: Path, tmp_path: Path, tiny_card: MakeCard) -> None:
    network = stage(tmp_path / "run", tiny_card("bokeh", base))
    base.write_bytes(b"trained again")
    with pytest.raises(ValueError, match="other base weights"):
        require_backbone(network)
    base.unlink()
    with pytest.raises(FileNotFoundError, match=r"network\.json.*do not exist"):
        require_backbone(network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version 1"),
        ({"task": "sharpen"}, "task 'sharpen' unknown: use deblur or bokeh"),
        ({"surprise": 1}, "surprise"),
        ({"backbone": {"kind": "huge", "path": "x"}}, "'huge' unknown"),
        ({"flow": {"prediction": "noise"}}, "noise"),
        ({"prompt": None, "flow": None}, "no network card"),
    ],
)
def test_what_is_no_card_is_named(
    base: Path, tmp_path: Path, change: dict, message: str, tiny_card: MakeCard
) -> None:
    file = write_network_card(tmp_path, tiny_card("bokeh", base))
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as error:
        read_network_card(tmp_path)
    assert str(file) in str(error.value)
    file.write_text("{")
    with pytest.raises(ValueError, match="no network card"):
        read_network_card(tmp_path)


def test_of_two_networks_the_later_counts_and_unfinished_stages_do_not(
    base: Path, tmp_path: Path, tiny_card: MakeCard
) -> None:
    stage(tmp_path / "z_first", tiny_card("bokeh", base, prompt="first"))
    second = stage(tmp_path / "a_second", tiny_card("bokeh", base, prompt="second"))
    Path(stage(tmp_path / "unfinished", tiny_card("bokeh", base)).lora).unlink()
    assert networks_of(tmp_path) == {"bokeh": second}
    assert networks_of(tmp_path / "z_first")["bokeh"].prompt == "first"
    assert networks_of(tmp_path / "absent") == {}


def test_the_latest_run_has_all_networks_that_are_asked_for(
    base: Path, tmp_path: Path, tiny_card: MakeCard
) -> None:
    outputs = tmp_path / "outputs"
    with pytest.raises(FileNotFoundError, match="make train"):
        latest_run(outputs)
    for run in ("semi_supervised/b", "semi_supervised/a"):
        for task in ("deblur", "bokeh"):
            stage(outputs / run / task, tiny_card(task, base))
    stage(outputs / "deblur" / "c" / "deblurnet", tiny_card("deblur", base))
    assert latest_run(outputs) == outputs / "semi_supervised" / "a"
    assert latest_run(outputs, ["deblur"]) == outputs / "deblur" / "c"
    stage(outputs / "direct" / "d" / "bokehnet", tiny_card("bokeh", base, variant="direct"))
    assert latest_run(outputs) == outputs / "direct" / "d"


def test_a_trial_is_not_the_latest_run(base: Path, tmp_path: Path, tiny_card: MakeCard) -> None:
    outputs = tmp_path / "outputs"
    trial = outputs / "deblur" / "b"
    stage(outputs / "deblur" / "b" / "deblurnet", tiny_card("deblur", base, trial=True))
    with pytest.raises(FileNotFoundError, match=r"make train, or use a trial .*: run=.*/b$"):
        latest_run(outputs, ["deblur"])
    card = tiny_card("deblur", base, trained_steps=300)
    stage(outputs / "deblur" / "a" / "deblurnet", card)
    stage(trial / "deblurnet", tiny_card("deblur", base, trial=True))  # written last
    assert latest_run(outputs, ["deblur"]) == outputs / "deblur" / "a"
    assert described(networks_of(outputs / "deblur" / "a")) == "deblur 300 steps"
    assert described(networks_of(trial)) == "deblur ? steps, a trial (debug=...)"


def test_released_files_are_asked_as_the_release_asks() -> None:
    deblur, bokeh = (released_card(task, "flux", f"{task}Net") for task in ("deblur", "bokeh"))  # type: ignore[arg-type]
    assert (deblur.prompt, deblur.guidance) == ("a sharp photo with everything in focus", 3.5)
    assert (bokeh.prompt, bokeh.guidance) == ("an excellent photo with a large aperture", 1.0)
    assert deblur.flow == bokeh.flow == Flow() and deblur.steps == bokeh.steps == 28
    assert deblur.draft_ids == "released" and deblur.variant == "standard"
    drafted = released_card("deblur", "flux", "deblurNet", variant="pre_deblur")
    assert drafted.variant == "pre_deblur"
