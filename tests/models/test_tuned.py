"""Every family that is taught by gradient, behind encoders whose last blocks learn with it."""

import dataclasses
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
import transformers

from hashtag_core.config import EncodersSection
from hashtag_core.data.batches import PostBatch
from hashtag_core.encoders.image import load_backbone
from hashtag_core.encoders.text import load_text
from hashtag_core.encoders.tops import EncoderTops, ImageTop, TextTop
from hashtag_core.errors import ConfigError
from hashtag_core.models import NeuralModel, family, list_models
from hashtag_core.models.folder import load_model_folder, save_model_folder
from hashtag_core.models.tuned import TunedModel, with_encoder
from tests.models.world import IMAGE_DIM, SIDE, TEXT_DIM, VOCABULARY, Subject, make, targets

ROWS = list(range(20, 28))
FEATURES = {"image_vector", "image_grid", "text_vector", "text_states"}
TAUGHT = [name for name in list_models() if issubclass(family(name), NeuralModel) and FEATURES & make(name).needs]


@cache
def networks() -> tuple[str, str]:
    """A ResNet and a BERT of the world's sizes."""
    folder = Path(mkdtemp())
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, IMAGE_DIM], "depths": [1, 1], "layer_type": "basic"}
    transformers.ResNetModel(transformers.ResNetConfig(**sizes)).save_pretrained(folder / "resnet")
    (folder / "resnet" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "size": {"height": 32, "width": 32}}'
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    small = {"hidden_size": TEXT_DIM, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    transformers.BertModel(transformers.BertConfig(**small, vocab_size=len(words))).save_pretrained(folder / "bert")
    (folder / "bert" / "vocab.txt").write_text("\n".join(words))
    return f"hf:{folder / 'resnet'}", f"hf:{folder / 'bert'}"


def tops(needs: frozenset[str]) -> EncoderTops:
    image, text = networks()
    section = EncodersSection(image=image, text=text, finetune="last:1", grid_side=SIDE, layer_decay=0.9)
    pictures = ImageTop(load_backbone(image), section) if {"image_vector", "image_grid"} & needs else None
    captions = TextTop(load_text(text, 16), section) if {"text_vector", "text_states"} & needs else None
    return EncoderTops(pictures, captions, needs, section.layer_decay)


def tuned(name: str) -> tuple[Subject, TunedModel]:
    subject = make(name)
    model = with_encoder(subject.model, tops(subject.needs))
    assert isinstance(model, TunedModel)
    return subject, model


def trunks(subject: Subject, rows: Sequence[int], image: Sequence[bool] | None = None) -> PostBatch:
    """The world's posts with noise of their own for trunks, and nothing that the encoders are to compute."""
    batch = subject.batch(rows, image)
    made = [np.random.default_rng(row) for row in rows]
    pixels = np.stack([rng.integers(0, 256, (32 * 32, 3)) for rng in made]).astype(np.float32)
    states = np.stack([rng.normal(size=(5, TEXT_DIM)) for rng in made]).astype(np.float32)
    mask = torch.arange(5)[None, :] < torch.tensor([2 + row % 4 for row in rows])[:, None]
    gone = {"image_vector_BD": None, "image_grid_BRD": None, "text_vector_BD": None, "text_states_BSD": None}
    present = batch.image_present_B[:, None, None]
    return dataclasses.replace(
        batch,
        **gone,
        text_states_mask_BS=None,
        image_trunk_BXC=torch.from_numpy(pixels) * present,
        text_trunk_BSD=torch.from_numpy(states),
        text_trunk_mask_BS=mask & batch.text_present_B[:, None],
    )


@pytest.mark.parametrize("name", TAUGHT)
def test_gradients_reach_what_learns_and_nothing_else(name: str) -> None:
    subject, model = tuned(name)
    torch.manual_seed(0)
    model.train()
    loss = model(trunks(subject, ROWS), targets(ROWS))
    loss.backward()
    assert torch.isfinite(loss)
    learning = {name for name, value in model.encoder.named_parameters() if value.requires_grad}
    reached = {name for name, value in model.encoder.named_parameters() if value.grad is not None and value.grad.any()}
    assert reached <= learning
    for part in ("image.", "text."):
        of_part = {name for name in learning if name.startswith(part)}
        assert len(of_part & reached) >= 0.8 * len(of_part), sorted(of_part - reached)
    rated = model.pretrained_parameters()
    assert {f"encoder.{name}" for name in learning} <= rated
    assert {name for name in rated if name.startswith("encoder.")} == {f"encoder.{name}" for name in learning}
    assert set(model.rate_scales()) == {f"encoder.{name}" for name in learning}


@pytest.mark.parametrize("name", TAUGHT)
def test_the_folder_holds_what_was_trained(name: str, tmp_path: Path) -> None:
    subject, model = tuned(name)
    with torch.no_grad():
        for value in model.encoder.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    model.eval()
    batch = trunks(subject, ROWS, [True, False] * 4)
    with torch.inference_mode():
        expected = model.score(batch)
    save_model_folder(tmp_path, model, subject.options, VOCABULARY, subject.tokenizer, {"name": "tuned"})
    loaded = load_model_folder(tmp_path, build_tops=lambda described, needs: tops(needs))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model.score(batch), expected)
        noise = dataclasses.replace(
            batch, image_trunk_BXC=batch.image_trunk_BXC + 50 * ~batch.image_present_B[:, None, None]
        )
        torch.testing.assert_close(loaded.model.score(noise), expected)


@pytest.mark.parametrize("name", ["co_attention", "lxmert4hashtag", "nic", "okboomer"])
def test_learns_eight_posts_by_heart_through_the_encoders(name: str) -> None:
    subject, model = tuned(name)
    torch.manual_seed(0)
    batch, wanted = trunks(subject, ROWS), targets(ROWS)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=5e-3)
    model.train()
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(batch, wanted)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0], (losses[0], losses[-1])


def test_a_fitted_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="linear is fitted in closed form"):
        with_encoder(make("linear").model, tops(frozenset({"text_vector"})))
