"""Training, validation, test and the camera on CUDA tensors, without a GPU; see fake_cuda."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from genrefocus.backbone import Backbone
from genrefocus.backbone.codec import VaeCodec
from genrefocus.backbone.spelling import HashedWords
from genrefocus.backbone.tiny import build_tiny
from genrefocus.benchmark.case import Case
from genrefocus.benchmark.results import read_results
from genrefocus.denoiser import Denoiser
from genrefocus.embedded.sets import build_embedded
from genrefocus.flow import Flow, Shift, SigmaDistribution
from genrefocus.network import Network
from genrefocus.network_card import BackboneSource, NetworkCard, write_network_card
from genrefocus.network_methods import DeblurMethod, RefocusMethod
from genrefocus.optics import BlurStrength
from genrefocus.pipeline import RefocusPipeline
from genrefocus.sampling import Tiling
from lit_models import BokehNet, DeblurNet, evaluation, stages
from lit_models.deblurnet import MapErrors
from lit_models.flow_matching import FlowMatching
from lit_models.loss_watch import LossWatch, NonFiniteLossError
from lit_models.ranks import Ranks
from lit_models.stages import in_the_wild, network
from tests.fake_cuda import CPU, CUDA, OnCuda, fake_cuda, strategy

SIZE = 24
SWEPT = [f"sweep_{k}" for k in (1, 5, 10)]
SETTINGS: dict[str, Any] = {
    "flow": Flow(),
    "sigma": SigmaDistribution(),
    "rank": 2,
    "prompt": "a photo",
    "guidance": 1.0,
    "steps": 1,
    "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    "warmup_steps": 1,
    "decay_steps": None,
    "seed": 3,
    "validation_sigmas": (0.5,),
}
ERRORS = MapErrors(k=0.1, local=0.1, smear=1.0)
NETWORKS: dict[str, Callable[[Backbone], FlowMatching]] = {
    "deblur": lambda base: DeblurNet(base, **SETTINGS),
    "pre_deblur": lambda base: DeblurNet(base, pre_deblur=True, **SETTINGS),
    "told": lambda base: DeblurNet(base, told=1.0, map_errors=ERRORS, **SETTINGS),
    "bokeh": lambda base: BokehNet(base, **SETTINGS),
    "direct": lambda base: BokehNet(base, direct=True, **SETTINGS),
}


@pytest.fixture(autouse=True)
def _no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs larger images; test_on_cuda has it."""
    monkeypatch.setattr("lit_models.fidelity.lpips_available", lambda: False)


def make_batch(first: int = 0, rows: int = 2, *, sweep: bool = False) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(first)

    def images(channels: int = 3) -> Tensor:
        return torch.rand(rows, channels, SIZE, SIZE, generator=generator)

    names = ("aif", "bokeh", "blurry", "pre_deblur", *(SWEPT if sweep else ()))
    return {
        "draw": list(range(first, first + rows)),
        "key": [f"sample-{n}" for n in range(first, first + rows)],
        "route": ["in_the_wild" if n % 2 else "synthetic" for n in range(first, first + rows)],
        "prompt": ["its own" if n % 2 else None for n in range(first, first + rows)],
        "disparity": images(1),
        "defocus": images(1),
        "k": torch.full((rows,), 15.0),
        "focus_disparity": torch.full((rows,), 0.5),
        "radius": torch.full((rows,), 3.0),
        **{name: images() for name in names},
    }


class Batches(LightningDataModule):
    """Micro-batches, as a loader on a machine with a GPU pins them."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        pinned = [
            {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in batch.items()}
            for batch in self.batches
        ]
        return DataLoader(pinned, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


@pytest.fixture
def flux_in_bf16(tiny_flux: Any, tiny_vae: Any) -> Backbone:
    """FLUX's parts at tiny size: transformer and autoencoder in bf16, checkpointed."""
    transformer = tiny_flux(
        num_layers=1, num_single_layers=1, joint_attention_dim=16, pooled_projection_dim=16
    )
    return Backbone(
        transformer.bfloat16(),
        VaeCodec(tiny_vae().bfloat16()),
        HashedWords(4, 16, 16),
        shift=Shift(),
        tiling=Tiling(4, 3),
        checkpointing="all",
    )


@pytest.fixture
def backbone(tiny_settings: dict[str, Any]) -> Backbone:
    return build_tiny(**tiny_settings).requires_grad_(False).eval()


# The training step.


class WithoutWaits(Callback):
    """Forbids waits within micro-batches, but for those that the optimiser's step may make."""

    def __init__(self, gpu: Any, first: int) -> None:
        self.gpu, self.first, self.seen = gpu, first, []  # type: ignore[var-annotated]

    def on_train_batch_start(self, *args: Any) -> None:
        self.before = len(self.gpu.syncs)

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, n: int) -> None:
        if n >= self.first:
            self.seen.append(self.gpu.syncs[self.before :])


@pytest.mark.parametrize("name", NETWORKS)
def test_micro_batches_make_the_host_wait_for_nothing(
    name: str, flux_in_bf16: Backbone, tmp_path: Path
) -> None:
    base = flux_in_bf16
    dtypes: dict[str, set[torch.dtype]] = {}

    def watch(place: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
            given = [x for x in (*inputs, out) if isinstance(x, Tensor) and x.is_floating_point()]
            dtypes.setdefault(place, set()).update(x.dtype for x in given)

        return note

    for place, module in base.transformer.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.register_forward_hook(watch(place))
    module = NETWORKS[name](base)
    with fake_cuda() as gpu:
        watched = WithoutWaits(gpu, first=2)
        trainer = Trainer(
            strategy=strategy(),
            max_steps=3,
            accumulate_grad_batches=2,
            gradient_clip_val=1.0,
            log_every_n_steps=1000,
            callbacks=[EMAWeightAveraging(decay=0.5, use_buffers=False), watched],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, Batches([make_batch(2 * n) for n in range(6)]))
    assert dtypes and set.union(*dtypes.values()) == {torch.bfloat16}, "the base was widened"
    assert all(p.dtype == torch.float32 for p in module.lora.parameters())
    within, at_steps = watched.seen[::2], watched.seen[1::2]
    assert within == [[], []]
    average = ["__bool__ at no line of the project"] * 2  # torch's counts, after the step
    assert [sorted(one.partition(":")[0] for one in seen) for seen in at_steps] == [
        ["__bool__ at lit_models/loss_watch.py", *average]
    ] * 2


def test_a_loss_that_is_not_finite_names_its_batch_before_it_reaches_the_weights(
    tmp_path: Path,
) -> None:
    with fake_cuda() as gpu:
        watch = LossWatch(tmp_path, "Look at them.")
        with gpu.no_sync():
            watch.see(torch.zeros((), device="cuda"), ["good"])
            watch.see(torch.zeros((), device="cuda") / 0, ["bad", "worse"])
        with pytest.raises(NonFiniteLossError, match=r"loss is nan at step 7; .* Look at them\."):
            watch.check(7, rank=1)
        report = tmp_path / "non_finite_loss_step7_rank1.txt"
        assert report.read_text().splitlines() == ["loss nan at step 7", "bad", "worse"]
        watch.see(torch.ones((), device="cuda"), ["good"])
        watch.check(8, rank=1)


# The steps of all networks, beside their answers on the CPU.


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_give_on_cuda_what_they_give_on_the_cpu(name: str, backbone: Backbone) -> None:
    def measured(device: torch.device) -> list[Any]:
        module = NETWORKS[name](backbone).ready_on(device)
        module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[assignment]
        module.setup("fit")
        plain, sweep = (
            module.transfer_batch_to_device(make_batch(sweep=swept), device, 0)
            for swept in (False, True)
        )
        loss = module.training_step(plain, 0)
        loss.backward()
        module.watch.check(0, rank=0)
        gradient = next(iter(module.lora.lora_b.values())).grad
        with torch.no_grad():
            images = [module.validation_step(batch, 0)["image"] for batch in (plain, sweep)]
        found = {}
        for metric in module.held_out.values():
            found |= {name: value.item() for name, value in metric.compute().items()}
        found |= module.fidelity.compute_and_reset()
        assert all(isinstance(x, OnCuda) == (device == CUDA) for x in (loss, gradient, *images))
        return [loss.cpu(), gradient.cpu(), *(one.cpu() for one in images), found]

    expected = measured(torch.device("cpu"))
    with fake_cuda() as gpu:
        found = measured(CUDA)
    waits = [one for one in gpu.syncs if "lit_models" in one]
    assert not any("__getitem__" in one or "by mask" in one for one in waits)
    for a, b in zip(expected[:-1], found[:-1], strict=True):
        assert torch.equal(a, b)
    assert found[-1] == pytest.approx(expected[-1], nan_ok=True)
    assert ("val/lvcorr" in found[-1]) == (name in ("bokeh", "direct"))


# Stages that run outside a trainer.

OF_A_RUN = {
    "paths": {"root": "/checkout"},
    "backbone": {},
    "trainer": {},
    "callbacks": {},
    "stage_folder": None,
}


def test_a_run_is_evaluated(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_FIDELITY", ("psnr", "ssim"))
    data, run = tmp_path / "data", tmp_path / "run"
    two = {"val": 2, "test": 2}
    counts = {"deblur": two, "synthetic": two, "sweep": two}
    build_embedded(data, seed=1, counts=counts, size=32, workers=0, progress=False)
    (tmp_path / "base.safetensors").touch()
    for name, make in (("deblurnet", DeblurNet), ("bokehnet", BokehNet)):
        module, source = make(backbone, **SETTINGS), str(tmp_path / "base.safetensors")
        (run / name).mkdir(parents=True)
        module.lora.save(run / name / module.lora_file)
        base = BackboneSource("tiny", source)
        card = NetworkCard(module.task, base, Flow(), "a photo", 1.0, 1, 2, module.lora_file)
        write_network_card(run / name, card)
        (run / name / "summary.json").write_text('{"steps": 3, "samples_per_second": 1.0}')
    evaluated = {
        "deblur": f"{data}/deblur/test",
        "bokeh": f"{data}/synthetic/test",
        "control": f"{data}/sweep/test",
        "validation": f"{data}/deblur/val",
    }
    settings = {
        "curriculum": ["deblurnet", "bokehnet"],
        "evaluation": {**evaluated, "base": True, "captions": False, "classical": False},
        "data": {"crop": SIZE, "build": None},
        "test_samples": None,
        "seed": 3,
    }
    ranks = Ranks(0, 1, CUDA, lambda: None, tmp_path)
    with fake_cuda():
        evaluation.evaluate(OmegaConf.create(settings), run, backbone, ranks)
        assert backbone.device == CUDA
    figures = read_results(run / "benchmark").figures
    assert figures["failure"].isna().all()
    methods = set(figures.loc[figures["task"] == "refocus", "method"])
    assert methods == {"identity", "classical_scatter", "unsharp_scatter", "chain"}


def test_the_stage_in_the_wild_may_come_first(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stage before it in its process has moved the backbone."""
    lora = tmp_path / "deblurNet.safetensors"
    DeblurNet(backbone, **SETTINGS).lora.save(lora)
    photographs = make_batch()["bokeh"]
    found: list[Tensor] = []

    def route(*, deblur: Callable[[Tensor], Tensor], **options: Any) -> None:
        found.append(deblur(photographs))

    made = {"network": lambda base: DeblurNet(base, **SETTINGS), "route": route, "source": None}
    monkeypatch.setattr(in_the_wild, "instantiate", lambda node: made[node.kind])
    monkeypatch.setattr(in_the_wild, "prepare", lambda *_, **options: None)
    settings = {
        "out": str(tmp_path / "shards"),
        "network": {"kind": "network", "init_lora": str(lora)},
        "route": {"kind": "route"},
        "source": {"kind": "source"},
        "captions": {},
        "gates": {},
        "prepare": {},
    }
    config = OmegaConf.create({"stages": {"in_the_wild": settings}, **OF_A_RUN})
    place = {"name": "in_the_wild", "config": config, "folder": tmp_path}
    stage = stages.PrepareInTheWild(**config.stages.in_the_wild, **place)
    with fake_cuda():
        stage.run(backbone, Ranks(1, 1, CUDA, lambda: None, tmp_path))
        assert backbone.device == CUDA
    assert found[0].shape == photographs.shape and not isinstance(found[0], OnCuda)


# The camera, and trained networks as methods of the benchmark.


def test_the_camera_gives_on_cuda_what_it_gives_on_the_cpu(backbone: Backbone) -> None:
    """A photograph of several tiles, of an odd size; its depth is on the host."""
    y, x = torch.linspace(0, 3, 61)[:, None], torch.linspace(0, 2, 45)
    photo = torch.stack([(y + x).sin(), (y * x).cos(), (y - x).cos()]) / 2 + 0.5
    disparity = torch.ones(61, 45)
    disparity[:, 20:] = 0.5
    strength = BlurStrength(20.0, 61, 45)
    case = Case("refocus", "a", photo, photo, photo, disparity, 0.5, strength)

    def images() -> list[Tensor]:
        denoisers = [Denoiser(backbone, Flow(), module.lora) for module in modules]
        deblur, bokeh = (Network(denoiser, "a photo", 2) for denoiser in denoisers)
        camera = RefocusPipeline(deblur, bokeh)
        scene = camera.prepare(photo, focus=(3, 3), disparity=disparity)
        shown = camera.refocus(scene, strength).image
        methods = (DeblurMethod(deblur, "deblur"), RefocusMethod(camera, "chain"))
        return [shown, *(method(case) for method in methods)]

    modules = [DeblurNet(backbone, **SETTINGS), BokehNet(backbone, **SETTINGS)]
    expected = images()
    with fake_cuda():
        for module in modules:
            module.ready_on(CUDA)
        found = images()
        assert not any(isinstance(one, OnCuda) for one in found)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


def test_prompts_of_all_sets_are_learnt_before_training(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Data:
        def prompts(self) -> set[str]:
            return {"of a sample", "of a test"}

    monkeypatch.setattr(network, "instantiate", lambda node: Data())
    trained = {"module": {"prompt": "of the stage"}, "datamodule": {"a": 1}}
    trained |= {"_target_": "lit_models.stages.TrainNetwork", "fit": {}, "global_batch": 1}
    shards = {"network": {"prompt": "of the network"}, "prepare": {}, "gates": {}, "out": "/shards"}
    shards |= {"route": {}, "source": {}, "captions": {}}
    shards["_target_"] = "lit_models.stages.PrepareInTheWild"
    own = {"stages": {"one": trained, "two": shards}, "curriculum": ["one", "two"]}
    chosen = stages.build_stages(OmegaConf.create({**own, **OF_A_RUN}), tmp_path)
    backbone.prompts.folder = tmp_path
    stages.learn_prompts(chosen, backbone, Ranks(0, 1, CPU, lambda: None, tmp_path), "prompts")
    expected = ["of a sample", "of a test", "of the network", "of the stage"]
    assert all(backbone.prompts._file(prompt).is_file() for prompt in expected)
    assert len(list(tmp_path.glob("*/*.safetensors"))) == len(expected)
