"""Captions by a network of transformers: BLIP of the real classes, tiny and random."""

from pathlib import Path

import pytest
import torch

from genrefocus.cli import main
from genrefocus.preparation.sources import CaptionedSource, Photographs, SidecarCaptions
from tests.unit.preparation.sources.layouts import image

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sign", "says", "exit")


@pytest.fixture
def blip(tmp_path: Path) -> Path:
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path / "blip"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2}
    text = {"encoder_hidden_size": 16, "vocab_size": len(WORDS), "max_position_embeddings": 64}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={**small, **text},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8,
        image_text_hidden_size=8,
    )
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)
    return folder


def test_captions_are_written_once_and_read_by_a_source(
    blip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, captions = tmp_path / "photos", tmp_path / "captions"
    for name in ("1.jpg", "day/2.jpg", "day/3.png"):
        image(photos / name)
    (photos / "4.jpg").write_bytes(b"none")
    (captions / "day").mkdir(parents=True)
    (captions / "day/2.txt").write_text("mine")
    command = ["caption", str(photos), "--model", str(blip), "-o", str(captions)]
    assert main([*command, "--batch-size", "2", "--begin", "a sign"]) == 0
    out = capsys.readouterr()
    assert "2 captions written" in out.out and "1 were there, 1 image could not be read" in out.out
    assert "4.jpg: not_an_image" in out.err
    (photos / "4.jpg").unlink()
    items = CaptionedSource(Photographs(photos), SidecarCaptions(captions)).items()
    first, second, third = (item.caption for item in items)
    assert second == "mine"
    for caption in (first, third):
        assert caption is not None and caption.startswith("a sign")
        assert set(caption.split()) <= set(WORDS) and "[SEP]" not in caption
    assert main(command) == 0 and "0 captions written" in capsys.readouterr().out


def test_a_model_that_does_not_fit_is_named(
    blip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tmp_path / "photos/1.jpg")
    command = ["caption", str(tmp_path / "photos"), "-o", str(tmp_path), "--model"]
    assert main([*command, "some/blip"]) == 2
    assert "name the commit too: some/blip@COMMIT" in capsys.readouterr().err
    (blip / "config.json").write_text('{"model_type": "bert"}')
    assert main([*command, str(blip)]) == 2
    assert f"captioning model {blip} cannot be loaded" in capsys.readouterr().err
