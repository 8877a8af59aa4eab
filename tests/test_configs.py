"""The real configurations compose, resolve and build what they say."""

import inspect
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import FluxTransformer2DModel
from hydra import compose, initialize_config_dir
from hydra.core.utils import configure_log
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import ExifTags, Image

import train  # noqa: F401  registers the resolvers that the configurations use
from genrefocus.backbone import Backbone
from genrefocus.backbone.codec import PixelCodec
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.spelling import HashedWords
from genrefocus.configuration.composing import option_names, settle_missing
from genrefocus.flow import Shift
from genrefocus.network_card import (
    BOKEH_GUIDANCE,
    BOKEH_PROMPT,
    DEBLUR_GUIDANCE,
    DEBLUR_PROMPT,
    STEPS,
)
from genrefocus.preflight.inputs import require_inputs
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.sources import Pairs, RealBokeh3mp
from genrefocus.sampling import Tiling
from genrefocus.terminal import Bars

CONF = Path(__file__).resolve().parents[1] / "conf"
EXPERIMENTS = option_names("experiment")


@pytest.fixture
def conf() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base=None):
        yield


def composed(*overrides: str) -> DictConfig:
    config = compose("train", overrides=["paths.run=/run", *overrides])
    settle_missing(config)
    OmegaConf.resolve(config)
    return config


SHARDS = [
    f"data.{name}=/{name}" for name in ("deblur", "synthetic", "sweep", "photos", "estimates")
]


@pytest.mark.parametrize("scale", ["embedded", "paper"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_at_both_scales(conf: None, experiment: str, scale: str) -> None:
    given = [f"inputs.{name}=/x" for name in ("deblur_lora", "bokeh_lora", "frozen_bokeh_lora")]
    given += SHARDS if scale == "paper" else []
    config = composed(f"experiment={experiment}", f"scale={scale}", *given)
    assert config.name == experiment
    assert all(stage in config.stages for stage in config.curriculum)


def cells_of(sweep: str) -> list[str]:
    """What the sweeper of a sweep runs through."""
    own = yaml.safe_load((CONF / f"sweep/{sweep}.yaml").read_text())
    return str(own["hydra"]["sweeper"]["params"]["cell"]).split(",")


SWEEPS = ["base", "data_routes", "deblur_knowledge", "k_labels", "lora_rank", "two_stage"]


@pytest.mark.parametrize("scale", ["embedded", "paper"])
@pytest.mark.parametrize(("sweep", "cell"), [(s, cell) for s in SWEEPS for cell in cells_of(s)])
def test_every_cell_of_a_sweep_composes_at_both_scales(
    conf: None, sweep: str, cell: str, scale: str
) -> None:
    given = [f"scale={scale}", *([*SHARDS, "data.median_k=20"] if scale == "paper" else [])]
    config = composed(f"sweep={sweep}", f"cell={cell}", "seed=7", *given)
    assert (config.sweep_name, config.cell, config.seed) == (sweep, cell, 7)
    for stage in config.curriculum:
        for part in {"module", "datamodule", "network"} & set(config.stages[stage]):
            instantiate(config.stages[stage][part])
        if "datamodule" in config.stages[stage]:
            assert config.stages[stage].datamodule.seed == 7


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_runs_all_its_cells_each_in_its_own_folder(conf: None, sweep: str) -> None:
    """And its baseline is one of them."""
    config = compose("train", overrides=[f"sweep={sweep}"], return_hydra_config=True)
    assert list(config.cells or ["first_stages"]) == cells_of(sweep)
    assert config.baseline in cells_of(sweep)
    assert config.hydra.sweeper.params.seed == "1,2,3"
    for cell in cells_of(sweep):
        given = [f"sweep={sweep}", f"cell={cell}", "seed=2", "paths.outputs=/o"]
        one = compose("train", overrides=given, return_hydra_config=True).hydra.sweep
        assert f"{one.dir}/{one.subdir}" == f"/o/sweeps/{sweep}/{cell}/seed_2"


@pytest.mark.parametrize("sweep", ["data_routes", "k_labels", "lora_rank"])
def test_cells_differ_in_one_thing_alone(conf: None, sweep: str) -> None:
    """Same stages, steps, batches, tests and starting files; and the total of both for one."""
    cells = [
        composed(f"sweep={sweep}", f"cell={cell}", "paths.outputs=/o") for cell in cells_of(sweep)
    ]
    varied = {"weights", "k_label", "k_deviation", "k_constant", "rank"}
    seen = []
    for one in cells:
        [name] = one.curriculum
        stage = OmegaConf.to_container(one.stages[name])
        seen.append(
            {
                part: {key: v for key, v in stage[part].items() if key not in varied}
                for part in ("fit", "datamodule", "module")
            }
        )
    assert all(one == seen[0] for one in seen)
    if sweep != "lora_rank":
        start = "/o/sweeps/base/first_stages/seed_42/bokehnet_synthetic/bokehNet.safetensors"
        assert seen[0]["module"]["init_lora"] == start
        base = composed("sweep=base", "cell=first_stages")
        module = base.stages.bokehnet_synthetic.module
        assert module.rank == cells[0].stages.bokehnet_semi_supervised.module.rank


def test_one_network_has_the_steps_and_the_rank_of_two(conf: None) -> None:
    for scale in (["scale=embedded"], ["scale=paper", *SHARDS]):
        both = composed("sweep=two_stage", "cell=two_stage", *scale)
        one = composed("sweep=two_stage", "cell=direct", *scale)
        stages = [both.stages[name] for name in both.curriculum]
        direct = one.stages.direct
        assert direct.fit.max_steps == sum(stage.fit.max_steps for stage in stages)
        assert direct.module.rank == sum(stage.module.rank for stage in stages)
        assert direct.module.direct and not stages[1].module.direct
        for stage in (*stages, direct):
            assert stage.module.decay_steps == stage.fit.max_steps


@pytest.mark.parametrize("group", ["trainer", "logger", "optimizer", "objective", "backbone"])
def test_every_option_of_a_group_composes(conf: None, group: str) -> None:
    for option in option_names(group):
        assert composed(f"{group}={option}")[group] is not None


@pytest.mark.parametrize("group", ["depth", "mask"])
def test_every_estimator_takes_the_arguments_of_its_option(conf: None, group: str) -> None:
    for option in option_names(group):
        estimator = composed(f"{group}={option}").stages.in_the_wild.route[group]
        arguments = {key: value for key, value in estimator.items() if key != "_target_"}
        inspect.signature(get_object(estimator._target_)).bind(**arguments)


@pytest.mark.parametrize("debug", option_names("debug"))
def test_debug_is_stronger_than_scale_and_experiment(conf: None, debug: str) -> None:
    plain, config = composed(), composed(f"debug={debug}")
    assert config.trainer != plain.trainer or config.stages != plain.stages
    if debug in ("limit", "overfit", "profiler"):
        steps = [config.stages[n].fit.max_steps for n in config.stages if "bokeh" in n]
        assert set(steps) == {config.stages.deblurnet.fit.max_steps}


def test_prodigy_has_a_rate_of_its_own(conf: None) -> None:
    for scale in (["scale=embedded"], ["scale=paper", *SHARDS]):
        assert composed("optimizer=prodigy", *scale).optimizer.lr == 1.0
    assert composed().optimizer.lr != composed("scale=paper", *SHARDS).optimizer.lr


@pytest.mark.parametrize("name", option_names("optimizer"))
def test_every_optimiser_goes_on_from_its_state_bit_for_bit(
    conf: None, name: str, tmp_path: Path
) -> None:
    """Read as checkpoints are, without running code that is in them."""
    settings = composed(f"optimizer={name}").optimizer
    pytest.importorskip(settings._target_.partition(".")[0])
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(6, 64, 128, generator=generator)

    def trained(start: torch.Tensor, steps: range, state: dict | None = None) -> tuple:
        weight = torch.nn.Parameter(start.clone())
        optimizer = instantiate(settings)([weight])
        if state is not None:
            optimizer.load_state_dict(state)
        for step in steps:
            weight.grad = gradients[step].clone()
            optimizer.step()
        return weight.detach(), optimizer.state_dict()

    begun = torch.ones(64, 128)
    whole, _ = trained(begun, range(6))
    torch.save(trained(begun, range(3)), tmp_path / "half.ckpt")
    half, state = torch.load(tmp_path / "half.ckpt", weights_only=True)
    resumed, _ = trained(half, range(3, 6), state)
    assert torch.equal(whole, resumed) and not torch.equal(whole, half)


def test_values_that_a_stage_needs_are_named_together(conf: None) -> None:
    shards, own = ["deblur", "synthetic", "sweep"], ["photos", "estimates"]
    assert missing_of("scale=paper") == [*shards, *own, "aperture_series"]
    assert missing_of("scale=paper", "mix.aperture_series=0") == [*shards, *own]
    assert missing_of("scale=paper", "experiment=deblur") == ["deblur"]
    assert missing_of("scale=paper", "experiment=deblur", "data.deblur=/d") == []
    assert composed("scale=paper", "experiment=deblur", "data.deblur=/d").data.photos is None


def missing_of(*overrides: str) -> list[str]:
    config = compose("train", overrides=["paths.run=/run", *overrides])
    return [key.removeprefix("data.") for key in settle_missing(config)]


def test_inputs_of_late_stages_are_missed_before_the_first(conf: None, tmp_path: Path) -> None:
    """Of the default experiment, whose embedded data and earlier stages do not exist yet."""
    fresh = [f"paths.data={tmp_path}", f"paths.run={tmp_path}/run"]
    require_inputs(composed(*fresh))
    with pytest.raises(ValueError, match=r"data\.photos=<folder>\n.*; data\.estimates=.*mask="):
        require_inputs(composed(*fresh, "data.photos=/none", "mask.folder=/none"))
    own = ["depth=onnx", "depth.kind=metric", "depth.file=/none.onnx"]
    with pytest.raises(ValueError, match=r"depth: /none\.onnx does not exist; depth\.file=<file>"):
        require_inputs(composed(*fresh, *own))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "unusable.jpg").touch()  # without EXIF it needs neither depth nor mask
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif).update({37386: 50.0, 33437: 1.8, 41989: 50})
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.jpg", exif=exif)
    with pytest.raises(
        ValueError, match=r"a\.npy is needed; data\.estimates=.*depth=pretrained.*\n.*a\.png"
    ):
        require_inputs(composed(*fresh, f"data.photos={tmp_path}/photos"))
    with pytest.raises(ValueError, match=r"inputs\.bokeh_lora=<file>"):
        require_inputs(composed(*fresh, "experiment=bokeh_semi_supervised"))


def test_the_paper_scale_is_the_published_recipe(conf: None) -> None:
    config = composed("scale=paper", *SHARDS)
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX_DEV_CONFIG)
    codec = PixelCodec(1)
    codec.channels = 16  # FLUX.1's autoencoder; nothing is encoded here
    backbone = Backbone(
        transformer, codec, HashedWords(4, 4096, 768), shift=Shift(), tiling=Tiling()
    )
    published = {
        "deblurnet": (60_000, 128, DEBLUR_PROMPT, DEBLUR_GUIDANCE),
        "bokehnet_synthetic": (40_000, 64, BOKEH_PROMPT, BOKEH_GUIDANCE),
        "bokehnet_semi_supervised": (60_000, 64, BOKEH_PROMPT, BOKEH_GUIDANCE),
    }
    for name, (steps, rank, prompt, guidance) in published.items():
        stage = config.stages[name]
        stage.module.init_lora = None
        module = instantiate(stage.module)(backbone)
        assert stage.fit.max_steps == steps
        assert stage.global_batch == 32 and stage.datamodule.batch_size == 1
        assert (module.lora.rank, len(module.lora.names)) == (rank, 343)
        assert (module.prompt, module.guidance) == (prompt, guidance)
        assert module.steps == STEPS
        assert module.flow.prediction == "velocity"
    mixed = config.stages.bokehnet_semi_supervised.datamodule
    # a + b + c in proportion to 70,000 rendered pairs, 13,000 photographs, 13,000 of series
    assert mixed.weights == {"synthetic": 70, "in_the_wild": 13, "aperture_series": 13}
    assert set(mixed.weights) == set(mixed.train)
    pairs = compose(
        "prepare",
        overrides=["route=deblur_pairs", "source=deblur_recipe", "name=x", "out=/out"]
        + [f"source.sources.{name}.root=/{name}" for name in ("dpdd", "realbokeh_3mp")],
    )
    sources = instantiate(pairs.source, _convert_="all").sources
    splits = {"train_c": "train", "val_c": "val", "test_c": "test"}
    assert sources["dpdd"] == Pairs("/dpdd", "target", "source", splits, True, "dpdd")
    assert sources["realbokeh_3mp"] == RealBokeh3mp("/realbokeh_3mp", 1, sharpest=3000)


def commands(document: Path, start: str) -> list[list[str]]:
    """Arguments of the commands of a document that begin with some words."""
    text = document.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith(start)]
    return [shlex.split(line, comments=True)[len(start.split()) :] for line in lines]


def test_the_commands_of_the_published_recipe_compose(conf: None, repo_root: Path) -> None:
    for name in ("README.md", "docs/configs.md"):
        (given,) = commands(repo_root / name, "python train.py scale=paper")
        config = composed("scale=paper", *given)
        assert config.stages.bokehnet_semi_supervised.fit.max_steps == 60_000
        assert config.data.aperture_series == "/shards/aperture_series"
    made = set()
    for given in commands(repo_root / "docs/preparation.md", "genrefocus prepare"):
        out = [one for one in given if one.startswith("out=/shards/")]
        if out:
            config = compose("prepare", overrides=[*given, "name=x", "data.estimates=/e"])
            assert instantiate(config.source, _convert_="all").roles
            made.add(Path(config.out).name)
    assert made == {"deblur", "synthetic", "sweep", "aperture_series"}


@pytest.mark.parametrize("command", ["train", "eval", "measure", "prepare"])
def test_a_line_of_progress_is_printed_once(
    conf: None, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Hydra sets Python's logging up for a command."""
    given = ["route=synthetic"] if command == "prepare" else []
    config = compose(command, overrides=given, return_hydra_config=True).hydra
    config.runtime.output_dir, config.job.name = str(tmp_path), command
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_log(config.hydra_logging)
        configure_log(config.job_logging)
        Bars().say("half is done")
    finally:
        root.handlers[:], root.level = handlers, level
    assert "".join(capsys.readouterr()).count("half is done") == 1


@pytest.mark.parametrize("route", option_names("route"))
def test_every_route_builds_what_it_says(conf: None, route: str) -> None:
    source = ["source=pairs", "source.root=/pairs"]
    given = source if route in ("aperture_series", "deblur_pairs") else []
    config = compose(
        "prepare", overrides=[f"route={route}", "data.estimates=/e", "name=x", "out=/out", *given]
    )
    factory = instantiate(config.route, _partial_=True, _convert_="all")
    groups = {"depth", "mask", "deblur", "blur", "shapes"} & set(config)
    parts = {name: object() for name in groups}
    if "deblur" in groups:
        parts["deblur_name"] = "network"
    inspect.signature(factory.func).bind(**factory.keywords, **parts)
    assert instantiate(config.source, _convert_="all").roles


@pytest.mark.parametrize("source", option_names("source"))
def test_every_source_takes_the_arguments_of_its_option(conf: None, source: str) -> None:
    plain = yaml.safe_load((CONF / "groups" / "source.yaml").read_text())[source]
    within = [str(one).partition("@")[2] for one in plain.get("defaults", []) if "@" in str(one)]
    roots = [f"source.{place}.root=/root" for place in within]
    config = compose("prepare", overrides=["route=synthetic", f"source={source}", "name=x", *roots])
    if OmegaConf.is_missing(config.source, "root"):
        config.source.root = "/root"
    built = instantiate(config.source, _convert_="all")
    assert built.name


def test_saliency_of_a_refined_mask_can_be_another_network(conf: None) -> None:
    given = ["mask=refined", "mask@mask.saliency=onnx", "mask.saliency.file=x.onnx"]
    for config in (composed(*given), compose("prepare", ["route=in_the_wild", *given, "name=x"])):
        assert config.mask.saliency._target_.endswith("OnnxSaliency")


@pytest.mark.parametrize("group", ["depth", "mask", "deblur", "gates", "blur", "shapes"])
def test_every_option_of_a_preparation_composes(conf: None, group: str) -> None:
    route = {"blur": "synthetic", "shapes": "point_lights"}.get(group, "in_the_wild")
    for option in option_names(group):
        config = compose(
            "prepare",
            overrides=[f"route={route}", f"{group}={option}", "data.estimates=/e", "name=x"],
        )
        if group == "gates":
            Gates(OmegaConf.to_container(config.gates))
            continue
        inspect.signature(get_object(config[group]._target_)).bind(
            **{str(key): None for key in config[group] if key != "_target_"}
        )
