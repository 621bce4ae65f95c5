"""What the card does in a second, and where a step's time goes. Nothing here can fail for being slow: it is measured, and told."""

import time

import pytest
import torch

from hashtag_core.recommend.recommender import Recommender
from tests.gpu.conftest import Tell
from tests.gpu.world_training import section, world_loop

EPOCHS = 3
TIMES = {"cuda": 16, "cpu": 2}
TAGGED = {"cuda": 2048, "cpu": 64}


@pytest.mark.parametrize("name", ["lxmert4hashtag", "co_attention", "design", "amnn"])
def test_training(name: str, device: torch.device, tell: Tell) -> None:
    """The tests' small sizes: what is measured is the loop around the model."""
    _, loop = world_loop(name, device, section(epochs=EPOCHS, batch_size=128), times=TIMES[device.type])
    row = loop.run().history[-1]
    tell(name, "training, posts/s (small sizes)", f"{row['posts_per_second']:.0f}")
    parts = [f"{key[5:-3]} {value:.2f}" for key, value in row.items() if key.startswith("step_")]
    tell(name, "a step, ms", ", ".join(parts))
    if device.type == "cuda":
        mfu = f", MFU {row['mfu']:.2%}" if "mfu" in row else ""
        tell(name, "most memory held", f"{row['peak_memory_mib']:.0f} MiB{mfu}")
        assert row["peak_memory_mib"] > 0
    assert row["posts_per_second"] > 0
    assert row["step_forward_ms"] > 0


def test_tagging(device: torch.device, tell: Tell, make_model_folder, make_posts, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Pictures and captions through encoders and model, decoding in the same process."""
    folder = make_model_folder(tmp_path / "linear")
    posts = make_posts(TAGGED[device.type], users=40)
    there, here = (Recommender.load(str(folder), device=where) for where in (str(device), "cpu"))
    there.recommend(posts[:32], top_k=10)
    started = time.perf_counter()
    tagged = there.recommend(posts, top_k=10)
    seconds = time.perf_counter() - started
    tell("tagging", "posts/s, decoded in one process", f"{len(posts) / seconds:.0f}")
    expected = here.recommend(posts[:32], top_k=10)
    same = [
        len(set(mine) & set(theirs)) / 10
        for mine, theirs in zip(tagged["hashtags"].to_pylist(), expected["hashtags"].to_pylist(), strict=False)
    ]
    tell("tagging", "first ten tags that are the CPU's", f"{sum(same) / len(same):.1%}")
    assert set(tagged["status"].to_pylist()) == {"ok"}
    assert sum(same) / len(same) > 0.95
