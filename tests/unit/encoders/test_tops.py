"""Encoders cut in two: trunk and top together are the whole encoder, and only the top learns."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from hashtag_core.config import EncodersSection
from hashtag_core.data.batches import FeaturizedPosts, PostBatch, collate
from hashtag_core.data.images import decode_image
from hashtag_core.encoders import Encoders, load_encoders
from hashtag_core.encoders.tops import EncoderTops, augmented, tuned_needs
from hashtag_core.errors import ConfigError

NEEDS = frozenset({"image_vector", "image_grid", "text_vector", "text_states"})
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "bird", "sun"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
CAPTIONS = ["a red bird", "sun", "a a red red bird sun"]


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, str]:
    """A BERT of three layers, a ViT of three and a ResNet of two stages, as `save_pretrained` leaves them."""
    torch.manual_seed(0)
    for name in ("bert", "vit", "resnet"):
        (tmp_path / name).mkdir()
    bert = transformers.BertConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=16)
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(WORDS))
    transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)).save_pretrained(
        tmp_path / "vit"
    )
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    transformers.ResNetModel(transformers.ResNetConfig(**sizes)).save_pretrained(tmp_path / "resnet")
    size = {"height": 32, "width": 32}
    preprocessing = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.25],
        "size": size,
        "rescale_factor": 1 / 255,
    }
    for name in ("vit", "resnet"):
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return {name: f"hf:{tmp_path / name}" for name in ("bert", "vit", "resnet")}


def section(**values: object) -> EncodersSection:
    return EncodersSection.model_validate({"precision": "float32", "backend": "torch", "grid_side": 2, **values})


def posts(encoders: Encoders, images: list[np.ndarray], captions: list[str | None]) -> FeaturizedPosts:
    """Features of posts, the first without an image, one whose caption is None without one."""
    n = len(captions)
    here = np.array([caption is not None for caption in captions])
    arrays = {name: np.concatenate([np.zeros_like(v[:1]), v]) for name, v in encoders.encode_images(images).items()}
    found = encoders.encode_captions([caption for caption in captions if caption is not None])
    for name, value in found.items():
        arrays[name] = np.zeros((n, *value.shape[1:]), value.dtype)
        arrays[name][here] = value
    if encoders.boxes is not None:
        arrays["boxes"] = encoders.boxes
    nobody: list[str | None] = [None] * n
    return FeaturizedPosts([str(k) for k in range(n)], nobody, captions, np.arange(n) > 0, here, arrays)


def both_ways(
    settings: EncodersSection, image_side: int, make_jpeg: object
) -> tuple[PostBatch, PostBatch, EncoderTops]:
    images = [decode_image(make_jpeg(n), image_side) for n in range(3)]  # type: ignore[operator]
    captions: list[str | None] = [*CAPTIONS, None]
    whole = load_encoders(settings.model_copy(update={"finetune": "none"}), NEEDS, "cpu")
    cut = load_encoders(settings, NEEDS, "cpu")
    tops = cut.tops()
    assert tops is not None
    with torch.no_grad():
        computed = tops.eval()(collate(posts(cut, images, captions), cut.needs))
    return collate(posts(whole, images, captions), NEEDS), computed, tops


@pytest.mark.parametrize("finetune", ["last:1", "last:2", "all"])
@pytest.mark.parametrize("image", ["vit", "resnet"])
def test_trunk_and_top_are_the_whole_encoder(
    tiny: dict[str, str], finetune: str, image: str, make_jpeg: object
) -> None:
    settings = section(text=tiny["bert"], image=tiny[image], finetune=finetune)
    expected, found, _ = both_ways(settings, 32, make_jpeg)
    for name in ("image_vector_BD", "image_grid_BRD", "text_vector_BD", "text_states_BSD", "boxes_BR4"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=6e-3, rtol=0)
    assert torch.equal(found.text_states_mask_BS, expected.text_states_mask_BS)
    assert not found.image_vector_BD[0].any()
    assert not found.text_states_BSD[3].any()
    assert not found.text_vector_BD[3].any()


@pytest.mark.parametrize("finetune", ["last:3", "all", "lora"])
def test_the_default_encoders(finetune: str, make_jpeg: object) -> None:
    expected, found, tops = both_ways(section(finetune=finetune), 224, make_jpeg)
    for name in ("image_vector_BD", "image_grid_BRD", "text_vector_BD", "text_states_BSD"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-2, rtol=0)
    assert tops.image is not None
    assert tops.image.from_pixels == (finetune != "last:3")


def test_only_the_last_blocks_learn(tiny: dict[str, str], make_jpeg: object) -> None:
    settings = section(text=tiny["bert"], image=tiny["vit"], finetune="last:1", layer_decay=0.5)
    _, _, tops = both_ways(settings, 32, make_jpeg)
    learning = {name for name, value in tops.named_parameters() if value.requires_grad}
    assert not any(".layer.0." in name or ".layer.1." in name or "embeddings" in name for name in learning)
    assert any("layernorm" in name for name in learning)
    assert {name for name in learning if name.startswith("text.")} == {
        name for name, _ in tops.named_parameters() if name.startswith("text.layers.0.")
    }
    two = load_encoders(section(text=tiny["bert"], finetune="last:2", finetune_of=["caption"], layer_decay=0.5), NEEDS)
    scales = two.tops().rate_scales()  # type: ignore[union-attr]
    assert {scale for name, scale in scales.items() if name.startswith("text.layers.0.")} == {0.5}
    assert {scale for name, scale in scales.items() if name.startswith("text.layers.1.")} == {1.0}


@pytest.mark.parametrize("finetune", ["last:2", "all", "lora"])
def test_what_lies_above_a_block_is_known_of_every_network(
    finetune: str, tiny: dict[str, str], make_jpeg: object
) -> None:
    settings = section(text=tiny["bert"], image=tiny["vit"], finetune=finetune, layer_decay=0.5)
    _, _, tops = both_ways(settings, 32, make_jpeg)
    levels, scales = tops.levels(), tops.rate_scales()
    assert levels.keys() == scales.keys() == {name for name, value in tops.named_parameters() if value.requires_grad}
    found: dict[str, tuple[int, float]] = {}
    for name in (name for name in levels if name.startswith("image.")):
        block = re.search(r"\.layers\.(\d+)\.", name)
        place = block[1] if block else "before" if "embeddings" in name else "after"
        assert found.setdefault(place, (levels[name], scales[name])) == (levels[name], scales[name]), name
    layers = max(int(place) for place in found if place.isdigit())
    assert found[str(layers)] == (0, 0.5)
    assert found[str(layers - 1)] == (1, 0.25)
    if finetune != "lora":
        assert found["after"] == (0, 1.0)
    if finetune == "all":
        assert found["before"] == (layers + 1, 0.5 ** (layers + 2))
    text = {name.split(".")[2]: level for name, level in levels.items() if name.startswith("text.")}
    assert [text[number] for number in sorted(text)] == list(range(len(text)))[::-1]


def test_running_means_stay(tiny: dict[str, str], make_jpeg: object) -> None:
    _, _, tops = both_ways(section(text=tiny["bert"], image=tiny["resnet"], finetune="all"), 32, make_jpeg)
    before = {name: value.clone() for name, value in tops.named_buffers()}
    tops.train()
    assert tops.image is not None
    tops.image(torch.rand(4, 32 * 32, 3) * 255)
    assert all(torch.equal(value, before[name]) for name, value in tops.named_buffers())


def test_gradients_are_the_same_when_blocks_are_computed_twice(tiny: dict[str, str], make_jpeg: object) -> None:
    found = []
    for twice in (False, True):
        settings = section(text=tiny["bert"], image=tiny["vit"], finetune="last:2", checkpoint_gradients=twice)
        cut = load_encoders(settings, NEEDS, "cpu")
        images = [decode_image(make_jpeg(n), 32) for n in range(2)]  # type: ignore[operator]
        tops = cut.tops()
        assert tops is not None
        for module in tops.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        batch = tops.train()(collate(posts(cut, images, ["a red bird", "sun", None]), cut.needs))
        (batch.text_states_BSD.sum() + batch.text_vector_BD.square().sum() + batch.image_vector_BD.sum()).backward()
        found.append({name: value.grad for name, value in tops.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 20
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name])


def test_needs_and_kinds(tiny: dict[str, str]) -> None:
    settings = section(text=tiny["bert"], image=tiny["vit"], finetune="last:1")
    assert tuned_needs(NEEDS, settings) == {"image_trunk", "text_trunk"}
    assert tuned_needs(frozenset({"image_vector", "text_vector", "history"}), settings) == {
        "image_trunk", "text_trunk", "image_vector", "text_vector", "history"
    }  # fmt: skip
    captions = settings.model_copy(update={"finetune_of": ["caption"]})
    assert tuned_needs(NEEDS, captions) == {"image_vector", "image_grid", "text_trunk"}
    assert tuned_needs(tuned_needs(NEEDS, settings), settings) == tuned_needs(NEEDS, settings)
    folders = set()
    for finetune in ("last:1", "last:2", "all"):
        cut = load_encoders(settings.model_copy(update={"finetune": finetune, "finetune_of": ["caption"]}), NEEDS)
        folders.add(cut.kinds["text_trunk"].folder)
        assert cut.identity["text"]["finetune"] == finetune
    assert len(folders) == 3
    assert "finetune" not in load_encoders(settings.model_copy(update={"finetune": "none"}), NEEDS).identity["text"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"finetune": "last:9"}, "the image encoder has 3 blocks"),
        ({"finetune": "last:1", "image": "efficientnet_lite0", "augment": True}, 'encoders.finetune = "all" is needed'),
        ({"finetune": "last:1", "regions": "precomputed:/nowhere.parquet"}, "nowhere|are its own cells"),
        ({"finetune": "last:1", "finetune_of": []}, "reads no encoder of encoders.finetune_of"),
    ],
)
def test_what_cannot_be_is_refused(tiny: dict[str, str], values: dict[str, object], message: str) -> None:
    from hashtag_core.errors import HashtagError

    with pytest.raises(HashtagError, match=message):
        load_encoders(section(**{"text": tiny["bert"], "image": tiny["vit"], **values}), NEEDS, "cpu").tops()


def test_a_text_encoder_of_another_build_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "distilbert"
    folder.mkdir()
    config = transformers.DistilBertConfig(vocab_size=len(WORDS), dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    transformers.DistilBertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ConfigError, match="leave the captions out of encoders"):
        load_encoders(section(text=f"hf:{folder}", finetune="last:1"), frozenset({"text_vector"})).tops()


def test_augmentation() -> None:
    torch.manual_seed(1)
    ramp = torch.linspace(0, 255, 16).expand(200, 3, 16, 16).clone()  # darker to the left
    found = augmented(ramp)
    assert found.shape == ramp.shape
    rising = (found[:, 0, 8, -1] > found[:, 0, 8, 0]).float().mean()
    assert 0.35 < rising < 0.65
    width = (found[:, 0, 8].max(1).values - found[:, 0, 8].min(1).values) / 255
    assert width.min() > 0.6  # the square root of half the area, less a pixel
    assert width.max() < 1.01
    torch.manual_seed(1)
    assert torch.equal(augmented(ramp), found)


def lora(tiny: dict[str, str], **values: object) -> EncodersSection:
    return section(text=tiny["bert"], image=tiny["vit"], finetune="lora", **values)


@pytest.mark.parametrize("image", ["vit", "resnet"])
def test_lora_gives_what_the_pretrained_encoder_gives_before_its_first_step(
    tiny: dict[str, str], image: str, make_jpeg: object
) -> None:
    expected, found, tops = both_ways(section(text=tiny["bert"], image=tiny[image], finetune="lora"), 32, make_jpeg)
    for name in ("image_vector_BD", "image_grid_BRD", "text_vector_BD", "text_states_BSD"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=6e-3, rtol=0)
    learning = {name for name, value in tops.named_parameters() if value.requires_grad}
    assert learning
    assert all(".lora_A." in name or ".lora_B." in name for name in learning)
    assert tops.rate_scales().keys() == learning


def test_lora_adds_twice_the_product_of_two_matrices_of_its_rank(tiny: dict[str, str]) -> None:
    cut = load_encoders(lora(tiny, lora_rank=3, finetune_of=["caption"]), NEEDS, "cpu")
    tops = cut.tops()
    assert tops is not None
    assert tops.text is not None
    query = tops.text.layers[1].attention.self.query
    down, up = query.lora_A["default"].weight, query.lora_B["default"].weight
    assert (down.shape, up.shape) == ((3, 16), (16, 3))
    assert not up.any()
    with torch.no_grad():
        up.normal_()
    x = torch.randn(5, 16)
    plain = query.base_layer
    expected = x @ (plain.weight + 2 * up @ down).T + plain.bias
    torch.testing.assert_close(query(x), expected, atol=1e-5, rtol=1e-5)


def test_lora_learns_and_leaves_the_weights_as_they_were(tiny: dict[str, str], make_jpeg: object) -> None:
    cut = load_encoders(lora(tiny), NEEDS, "cpu")
    tops = cut.tops()
    assert tops is not None
    images = [decode_image(make_jpeg(n), 32) for n in range(3)]  # type: ignore[operator]
    batch = collate(posts(cut, images, [*CAPTIONS, None]), cut.needs)
    before = {name: value.clone() for name, value in tops.named_parameters()}
    wanted = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW([value for value in tops.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        computed = tops.train()(batch)
        loss = (computed.image_vector_BD - wanted).square().mean() + (computed.text_vector_BD - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    moved = {name for name, value in tops.named_parameters() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"image", "text"}
    assert all(".lora_" in name for name in moved)
    again = load_encoders(lora(tiny), NEEDS, "cpu").tops()
    assert again is not None
    again.load_state_dict(tops.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(batch).text_vector_BD, tops.eval()(batch).text_vector_BD)


def test_lora_of_the_default_encoders_is_a_small_part_of_them() -> None:
    tops = load_encoders(section(finetune="lora"), NEEDS, "cpu").tops()
    assert tops is not None
    learning = sum(value.numel() for value in tops.parameters() if value.requires_grad)
    whole = sum(value.numel() for value in tops.parameters())
    assert 0.01 < learning / whole < 0.08
    cut = load_encoders(section(finetune="lora", finetune_of=["caption"]), NEEDS)
    assert cut.identity["text"]["finetune"] == "lora"
