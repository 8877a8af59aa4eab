"""Prompt embeddings: numbers that never change, and a cache in memory and on disk."""

from contextlib import contextmanager

import pytest
import torch

from genrefocus.backbone import TextEmbedding
from genrefocus.backbone.spelling import HashedWords
from genrefocus.backbone.text import PromptCache
from tests.fake_cuda import CUDA, fake_cuda


def test_hashed_words_are_the_same_for_ever():
    """Weights trained with them are shipped, so the numbers are pinned, not only repeatable."""
    embedded = HashedWords(2, 16, 20)(["blur image"])
    assert embedded.tokens[0, 0, :3].tolist() == pytest.approx(
        [0.771978, -0.665574, -1.514921], abs=1e-5
    )
    assert embedded.tokens[0, 1, -2:].tolist() == pytest.approx([-0.551643, -0.044535], abs=1e-5)
    assert embedded.pooled[0, :2].tolist() == pytest.approx([-0.326747, 0.189754], abs=1e-5)


def test_hashed_words_tell_prompts_apart():
    prompts = ["restore this image", "blur this image", "", "one two three four five six"]
    before = torch.get_rng_state()
    embedded = HashedWords(4, 64, 32)(prompts)
    assert torch.equal(torch.get_rng_state(), before)
    assert embedded.tokens.shape == (4, 4, 64) and embedded.pooled.shape == (4, 32)
    assert not embedded.tokens[2].any() and not embedded.pooled[2].any()
    # Equal words are equal vectors, whatever stands before them; upper case makes no difference.
    assert torch.equal(embedded.tokens[0, 2], embedded.tokens[1, 2])
    assert torch.equal(HashedWords(4, 64, 32)(["Restore THIS image"]).pooled[0], embedded.pooled[0])
    assert not torch.equal(embedded.tokens[0, 0], embedded.tokens[1, 0])
    # Words beyond the last token still count in the pooled vector.
    shorter = HashedWords(4, 64, 32)(["one two three four five"])
    assert torch.equal(shorter.tokens[0], embedded.tokens[3])
    assert not torch.equal(shorter.pooled[0], embedded.pooled[3])


class Counting:
    """An encoder that embeds a prompt as its length, and counts."""

    identity = "counting"

    def __init__(self):
        self.calls = []
        self.in_memory = False

    @contextmanager
    def loaded(self, device):
        self.in_memory = True
        yield self
        self.in_memory = False

    def __call__(self, prompts):
        self.calls.append(list(prompts))
        lengths = torch.tensor([float(len(prompt)) for prompt in prompts])
        return TextEmbedding(lengths.view(-1, 1, 1).expand(-1, 3, 2), lengths[:, None])


def test_every_prompt_is_encoded_once():
    encoder = Counting()
    cache = PromptCache(encoder)
    rows = cache(["bb", "a", "bb"], torch.device("cpu"), torch.bfloat16)
    assert rows.pooled.flatten().tolist() == [2, 1, 2]
    assert rows.tokens.shape == (3, 3, 2)
    assert rows.tokens.dtype == rows.pooled.dtype == torch.bfloat16
    again = cache(["ccc", "a"], torch.device("cpu"), torch.bfloat16)
    assert again.pooled.flatten().tolist() == [3, 1]
    assert encoder.calls == [["a", "bb"], ["ccc"]]


def test_prompts_known_from_inference_serve_training():
    cache = PromptCache(Counting())
    with torch.inference_mode():
        cache(["a"], torch.device("cpu"), torch.float32)
    weight = torch.ones(2, requires_grad=True)
    (cache(["a"], torch.device("cpu"), torch.float32).tokens * weight).sum().backward()
    assert weight.grad.tolist() == pytest.approx([3, 3], rel=1e-5)


CPU = torch.device("cpu")


def test_embeddings_on_disk_are_read_by_those_that_have_no_encoder(tmp_path):
    encoder, reader = Counting(), Counting()
    prompts = [f"prompt {n}" for n in range(100)]
    assert PromptCache(encoder, tmp_path).learn([*prompts, *prompts], CPU) == 100
    assert max(len(call) for call in encoder.calls) == 8 and not encoder.in_memory
    known = PromptCache(reader, tmp_path)
    assert known.learn(prompts, CPU) == 0
    rows = known(["prompt 7", "prompt 10", "prompt 7"], CPU, torch.float32)
    assert rows.pooled.flatten().tolist() == [8, 9, 8] and rows.tokens.shape == (3, 3, 2)
    for prompt in prompts:
        known([prompt], CPU, torch.float32)
    assert len(known._recent) == 64, "main memory holds the last ones"
    assert reader.calls == [], "an encoder was loaded"
    other = Counting()
    other.identity = "another encoder"
    cache = PromptCache(other, tmp_path)
    with pytest.raises(ValueError, match=rf"the prompt 'prompt 7' has no embedding in {tmp_path}"):
        cache(["prompt 7"], CPU, torch.float32)
    assert other.calls == [], "a rank that trains has loaded an encoder"
    assert cache.learn(["prompt 7"], CPU) == 1


def test_embeddings_reach_a_gpu_without_a_wait_and_do_not_stay_there(tmp_path):
    cache = PromptCache(Counting(), tmp_path)
    cache.learn(["a"], CPU)
    with fake_cuda() as gpu, gpu.no_sync():
        rows = cache(["a", "a"], CUDA, torch.bfloat16)
        assert rows.tokens.device == rows.pooled.device == CUDA
    assert all(one.tokens.device == CPU for one in cache._recent.values())
