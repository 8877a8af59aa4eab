"""Networks of transformers at tiny size with random weights, through the path of real ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from genrefocus.data.sample import to_uint8
from genrefocus.estimators import BiRefNet, Photo, PretrainedDepth
from genrefocus.geometry import View, resize

ENCODER = {
    "model_type": "dinov2",
    "image_size": 28,
    "patch_size": 14,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "out_indices": [1, 2, 3, 4],
    "reshape_hidden_states": False,
    "apply_layernorm": True,
}


def photo(name: str, height: int, width: int) -> Photo:
    """Of bytes, as a file has them."""
    image = torch.randint(0, 256, (3, height, width)) / 255
    return Photo(name, torch.rand(3, height, width), image)


def test_depth_pro_from_a_folder(tmp_path: Path) -> None:
    """The class with a tiny network of random weights: loading, batches, sizes, finite depth."""
    from transformers import DepthProConfig, DepthProForDepthEstimation, DepthProImageProcessor

    encoder = {
        "model_type": "dinov2",
        "image_size": 16,
        "patch_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = DepthProConfig(
        patch_size=16,
        fusion_hidden_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[12, 12],
        scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.25],
        scaled_images_feature_dims=[12, 12],
        merge_padding_value=1,
        use_fov_model=True,
        image_model_config=encoder,
        patch_model_config=encoder,
        fov_model_config=encoder,
    )
    torch.manual_seed(1)
    DepthProForDepthEstimation(config).save_pretrained(tmp_path / "tiny")
    DepthProImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "tiny")
    estimator = PretrainedDepth(tmp_path / "tiny", batch_size=2)
    photos = [photo(str(n), height=20 + n, width=30) for n in range(3)]
    maps = estimator.depth(photos)
    assert [tuple(one.shape) for one in maps] == [(20, 30), (21, 30), (22, 30)]
    assert all(one.dtype == torch.float32 and (one > 0).all() for one in maps)
    assert all(torch.isfinite(one).all() for one in maps)
    assert estimator.name == "depth_pro from folder tiny, metric"
    alone = PretrainedDepth(tmp_path / "tiny").depth(photos[1:2])[0]
    torch.testing.assert_close(1 / alone, 1 / maps[1], rtol=1e-3, atol=1e-5)  # far is 1e-4


def save_tiny(folder: Path, kind: str, **changes: Any) -> Path:
    """A network of a kind with its processor, as ``from_pretrained`` finds them."""
    import transformers as t

    torch.manual_seed(0)
    small = {"neck_hidden_sizes": [4, 4, 8, 8], "fusion_hidden_size": 8}
    if kind == "depth_anything":
        small |= {"reassemble_hidden_size": 16, "head_hidden_size": 4, "patch_size": 14}
        network: Any = t.DepthAnythingForDepthEstimation(
            t.DepthAnythingConfig(backbone_config=ENCODER, **small, **changes)
        )
        processor: Any = t.DPTImageProcessor(
            size={"height": 28, "width": 28}, keep_aspect_ratio=True, ensure_multiple_of=14
        )
    elif kind == "dpt":
        transformer = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
        transformer |= {"intermediate_size": 16, "image_size": 32, "patch_size": 16}
        config = t.DPTConfig(
            **transformer, backbone_out_indices=[0, 1, 2, 3], is_hybrid=False, **small, **changes
        )
        network = t.DPTForDepthEstimation(config)
        processor = t.DPTImageProcessor(size={"height": 32, "width": 32})
    elif kind == "glpn":
        config = t.GLPNConfig(
            hidden_sizes=[8, 8, 8, 8],
            num_attention_heads=[1, 1, 1, 1],
            depths=[1, 1, 1, 1],
            decoder_hidden_size=8,
            **changes,
        )
        network, processor = t.GLPNForDepthEstimation(config), t.GLPNImageProcessor()
    else:
        config = t.ZoeDepthConfig(
            backbone_config={
                "model_type": "beit",
                "image_size": 32,
                "patch_size": 16,
                "hidden_size": 16,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "out_indices": [1, 2, 3, 4],
                "reshape_hidden_states": False,
            },
            bottleneck_features=8,
            num_relative_features=8,
            bin_embedding_dim=8,
            num_attractors=[2, 2, 2, 2],
            bin_configurations=[{"n_bins": 4, "min_depth": 0.1, "max_depth": 10.0, "name": "x"}],
            **small,
            **changes,
        )
        network = t.ZoeDepthForDepthEstimation(config)
        processor = t.ZoeDepthImageProcessor(size={"height": 32, "width": 32})
    for values in network.parameters():
        if values.ndim > 1:  # so that answers vary
            torch.nn.init.kaiming_normal_(values)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("depth_anything", {"depth_estimation_type": "metric", "max_depth": 20}),
        ("depth_anything", {}),
        ("dpt", {}),
        ("glpn", {}),
        ("zoedepth", {}),
    ],
)
def test_depth_is_that_of_the_pipeline_of_transformers(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    """In metres where the network answers these, else linear in disparity over the given range."""
    from transformers import pipeline

    folder = save_tiny(tmp_path / "tiny", kind, **changes)
    is_metric = kind in ("glpn", "zoedepth") or changes
    given = None if is_metric else (0.5, 8.0)
    photos = [photo(str(n), *size) for n, size in enumerate([(64, 96), (64, 96), (80, 64)])]
    estimator = PretrainedDepth(folder, range=given, batch_size=2)
    maps = estimator.depth(photos)
    expected = pipeline("depth-estimation", model=str(folder))
    for one, depth in zip(photos, maps, strict=True):
        image = Image.fromarray(to_uint8(one.aif).permute(1, 2, 0).numpy())
        answer = expected(image)["predicted_depth"].float()
        assert depth.shape == answer.shape == one.size and answer.std() > 0.01
        if is_metric:
            assert (depth > 0).all()
            # Cubic resizing overshoots at edges alone.
            assert (depth - answer).abs().median() < 1e-4
            continue
        disparity = 1 / depth
        assert float(disparity.min()) == pytest.approx(1 / 8) and depth.min() == 0.5
        assert torch.corrcoef(torch.stack([disparity, answer]).flatten(1))[0, 1] > 0.995
    words = "metric" if is_metric else "relative_disparity, assumed from 0.5 to 8 m"
    assert estimator.name == f"{kind} from folder tiny, {words}"


def test_relative_answers_are_never_taken_for_metres(tmp_path: Path) -> None:
    relative = save_tiny(tmp_path / "relative", "depth_anything")
    with pytest.raises(ValueError, match=r"relative answers relative_disparity.*--depth-range"):
        PretrainedDepth(relative)
    with pytest.raises(ValueError, match=r"answers relative_disparity, not metric"):
        PretrainedDepth(relative, kind="metric")
    with pytest.raises(ValueError, match=r"depth range \[8, 2\]: give metres, 0 < NEAR < FAR"):
        PretrainedDepth(relative, range=(8, 2))
    metric = save_tiny(tmp_path / "metric", "depth_anything", depth_estimation_type="metric")
    with pytest.raises(ValueError, match="answers metres: leave the range"):
        PretrainedDepth(metric, range=(1, 9))
    # DPT on DINOv2 was released for metres; its configuration does not say so.
    save_tiny(tmp_path / "dpt", "dpt", backbone_config=ENCODER)
    with pytest.raises(ValueError, match="does not say what it answers: state its kind, metric or"):
        PretrainedDepth(tmp_path / "dpt")
    assert PretrainedDepth(tmp_path / "dpt", kind="metric").name.endswith("folder dpt, metric")


MODEL_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class Config(PretrainedConfig):
    model_type = "SegformerForSemanticSegmentation"

class Model(PreTrainedModel):
    config_class = Config
    def __init__(self, config):
        super().__init__(config)
        self.gain = torch.nn.Parameter(torch.tensor(50.0))
        self.post_init()
    def forward(self, x):
        return [x.mean(1, keepdim=True) * 0, self.gain * x.mean(1, keepdim=True)]
"""


def test_birefnet_runs_the_code_beside_its_weights(tmp_path: Path) -> None:
    """A stand-in with BiRefNet's interface: logits per stage, of normalised square images."""
    from safetensors.torch import save_file

    folder = tmp_path / "bright_is_salient"
    folder.mkdir()
    (folder / "birefnet.py").write_text(MODEL_CODE)
    save_file({"gain": torch.tensor(50.0)}, folder / "model.safetensors", {"format": "pt"})
    auto_map = {
        "AutoConfig": "birefnet.Config",
        "AutoModelForImageSegmentation": "birefnet.Model",
    }
    (folder / "config.json").write_text(json.dumps({"auto_map": auto_map}))
    estimator = BiRefNet(folder, batch_size=2)
    estimator.size = 64
    bright = torch.zeros(20, 30, dtype=torch.bool)
    bright[4:16, 10:25] = True
    image = resize(View(bright.float().expand(3, -1, -1) * 0.9), 20, 30).image
    found = estimator.mask([Photo("a", image, image), photo("b", 33, 17), photo("c", 16, 16)])
    masks = [one.region for one in found]
    assert [tuple(one.shape) for one in masks] == [(20, 30), (33, 17), (16, 16)]
    assert (masks[0] == bright).float().mean() > 0.97


def test_hub_models_need_a_commit_and_say_when_they_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mask model ZhengPeng7/BiRefNet.*revision="):
        BiRefNet("ZhengPeng7/BiRefNet")
    with pytest.raises(FileNotFoundError, match="depth model apple/DepthPro-hf cannot be loaded"):
        PretrainedDepth("apple/DepthPro-hf", revision="0" * 40)
    with pytest.raises(FileNotFoundError, match="cannot be loaded"):
        PretrainedDepth(tmp_path)
