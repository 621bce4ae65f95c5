"""VGG-16 and Inception v3: sizes and names of the published layout, their layers recomputed, files that are right and wrong."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from hashtag_core.config import EncodersSection
from hashtag_core.data.images import decode_image
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.packaged import file_sha256
from hashtag_core.encoders.published import InceptionV3, Mixed, Vgg16, load_published
from hashtag_core.errors import ConfigError, NotFoundError

VGG_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
FIVES = "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool"
SEVENS = (
    "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 "
    "branch7x7dbl_5 branch_pool"
)
WIDE = (
    "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a branch3x3dbl_3b "
    "branch_pool"
)
BLOCKS = {
    **dict.fromkeys(["Mixed_5b", "Mixed_5c", "Mixed_5d"], FIVES),
    "Mixed_6a": "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    **dict.fromkeys(["Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"], SEVENS),
    "Mixed_7a": "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
    **dict.fromkeys(["Mixed_7b", "Mixed_7c"], WIDE),
}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def on_meta(make, *arguments):
    with torch.device("meta"):
        return make(*arguments)


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


def random_state(network, seed=0):
    """Values for every tensor that keep activations of about one."""
    random = torch.Generator().manual_seed(seed)

    def values(name, like):
        if like.dtype == torch.int64:
            return torch.zeros((), dtype=torch.int64)
        if name.endswith("running_var"):
            return torch.rand(like.shape, generator=random) + 0.5
        scale = 0.1 if like.ndim < 2 else (2 / like[0].numel()) ** 0.5
        return torch.randn(like.shape, generator=random) * scale + (1.0 if name.endswith("bn.weight") else 0.0)

    return {name: values(name, like) for name, like in network.state_dict().items()}


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """The convolutions alone, 59 MB."""
    network = on_meta(Vgg16)
    network.trim()
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    save_file(random_state(network), path)
    return path


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Without auxiliary head and counts, with a classifier of 7 classes."""
    state = random_state(on_meta(InceptionV3, 7))
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    kept = {n: v for n, v in state.items() if not n.startswith("AuxLogits.") and not n.endswith("num_batches_tracked")}
    torch.save(kept, path)
    return path


def test_sizes_of_the_published_networks():
    assert size(on_meta(Vgg16)) == 138_357_544
    inception = on_meta(InceptionV3)
    assert size(inception) == 27_161_264
    assert size(inception) - size(inception.AuxLogits) == 23_834_568


def test_names_of_the_published_layout():
    vgg = [f"features.{n}" for n in VGG_CONVOLUTIONS] + [f"classifier.{n}" for n in (0, 3, 6)]
    assert set(on_meta(Vgg16).state_dict()) == {f"{layer}.{leaf}" for layer in vgg for leaf in ("weight", "bias")}
    layers = STEM + [f"{block}.{name}" for block, names in BLOCKS.items() for name in names.split()]
    layers += ["AuxLogits.conv0", "AuxLogits.conv1"]
    expected = {f"{layer}.conv.weight" for layer in layers}
    expected |= {f"{layer}.bn.{leaf}" for layer in layers for leaf in NORM}
    expected |= {f"{layer}.{leaf}" for layer in ("AuxLogits.fc", "fc") for leaf in ("weight", "bias")}
    assert set(on_meta(InceptionV3).state_dict()) == expected


def test_shapes():
    shapes = [
        tuple(out.shape)
        for network, side in ((on_meta(Vgg16), 224), (on_meta(Vgg16, True), 224), (on_meta(InceptionV3).eval(), 299))
        for out in network(torch.zeros(2, 3, side, side, device="meta"))
    ]
    assert shapes == [(2, 512), (2, 512, 7, 7), (2, 4096), (2, 4096, 1, 1), (2, 2048), (2, 2048, 8, 8)]


def test_vgg_from_a_file(vgg_file, make_jpeg):
    """Through the encoder, against its layers one after another."""
    needs = frozenset({"image_vector", "image_grid"})
    section = EncodersSection(image=f"vgg16:{vgg_file}", backend="torch", grid_side=7)
    encoders = load_encoders(section, needs, "cpu", threads=1)
    assert (encoders.image_dim, encoders.image_side_px) == (512, 224)
    assert encoders.identity["image"]["revision"] == file_sha256(vgg_file)
    image = decode_image(make_jpeg(), 224)
    state = load_file(vgg_file)
    x = torch.from_numpy((image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).float().permute(2, 0, 1)[None]
    for before, n in zip((None, *VGG_CONVOLUTIONS), VGG_CONVOLUTIONS, strict=False):
        x = functional.max_pool2d(x, 2) if before is not None and n - before == 3 else x
        x = functional.conv2d(x, state[f"features.{n}.weight"], state[f"features.{n}.bias"], padding=1).relu()
    x = functional.max_pool2d(x, 2)
    found = encoders.encode_images([image, image])
    np.testing.assert_allclose(found["image_vector"][0], x.mean((2, 3))[0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(found["image_grid"][1].T, x[0].flatten(1), rtol=5e-3, atol=5e-3)


def test_fc7_is_the_second_layer_after_its_relu():
    network = on_meta(Vgg16, True)
    network.trim()
    assert size(network) == 138_357_544 - 4096 * 1000 - 1000
    torch.manual_seed(0)
    network.features = torch.nn.AvgPool2d(32)
    network.classifier = torch.nn.Sequential(
        torch.nn.Linear(3 * 49, 6), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(6, 5), torch.nn.ReLU()
    )
    pixels = torch.randn(1, 3, 224, 224)
    first, _, _, second, _ = network.eval().classifier
    inner = functional.relu(first(functional.avg_pool2d(pixels, 32).flatten(1)))
    vector, cell = network(pixels)
    torch.testing.assert_close(vector, functional.relu(second(inner)))
    torch.testing.assert_close(cell[..., 0, 0], vector)


def test_inception_from_a_file(inception_file, tmp_path):
    network, revision = load_published(f"inception_v3:{inception_file}")
    assert revision == file_sha256(inception_file)
    network.eval()
    pixels = torch.randn(2, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 0.5
    with torch.inference_mode():
        vector, cells = network(pixels)
        again, _ = network(pixels[:1])
    assert vector.isfinite().all()
    assert not torch.allclose(vector[0], vector[1])
    torch.testing.assert_close(again[0], vector[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cells.mean((2, 3)), vector)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "i.safetensors")
    loaded, _ = load_published(f"inception_v3:{tmp_path / 'i.safetensors'}")
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(pixels[:1])[0], again)


@pytest.mark.parametrize("name", ["Mixed_5b", "Mixed_6a", "Mixed_6b", "Mixed_7a", "Mixed_7c"])
def test_an_inception_block(inception_file, name):
    """Written out from the paper's figures on the file's weights."""
    network, _ = load_published(f"inception_v3:{inception_file}")
    block = network.eval().get_submodule(name)
    assert isinstance(block, Mixed)
    state = torch.load(inception_file, weights_only=True)
    inputs = {"5b": 192, "6a": 288, "6b": 768, "7a": 768, "7c": 2048}[name[-2:]]
    x = torch.randn(1, inputs, 9, 9, generator=torch.Generator().manual_seed(3))

    def layer(key, x, stride=1):
        weight = state[f"{name}.{key}.conv.weight"]
        padding = 0 if stride == 2 else (weight.shape[2] // 2, weight.shape[3] // 2)
        x = functional.conv2d(x, weight, stride=stride, padding=padding)
        mean, var, scale, shift = (
            state[f"{name}.{key}.bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu(functional.batch_norm(x, mean, var, scale, shift, eps=1e-3))

    def row(*keys, last=1):
        out = x
        for key in keys:
            out = layer(key, out, last if key == keys[-1] else 1)
        return out

    def both(out, key):
        return torch.cat([layer(key + "a", out), layer(key + "b", out)], 1)

    average = functional.avg_pool2d(x, 3, 1, 1)
    greatest = functional.max_pool2d(x, 3, 2)
    three = [f"branch3x3dbl_{n}" for n in (1, 2, 3)]
    match name[-2:]:
        case "5b":
            parts = [row("branch1x1"), row("branch5x5_1", "branch5x5_2"), row(*three), layer("branch_pool", average)]
        case "6a":
            parts = [row("branch3x3", last=2), row(*three, last=2), greatest]
        case "6b":
            single = row(*(f"branch7x7_{n}" for n in (1, 2, 3)))
            double = row(*(f"branch7x7dbl_{n}" for n in (1, 2, 3, 4, 5)))
            parts = [row("branch1x1"), single, double, layer("branch_pool", average)]
        case "7a":
            long = row(*(f"branch7x7x3_{n}" for n in (1, 2, 3, 4)), last=2)
            parts = [row("branch3x3_1", "branch3x3_2", last=2), long, greatest]
        case _:
            short, long = row("branch3x3_1"), row("branch3x3dbl_1", "branch3x3dbl_2")
            wide = [both(short, "branch3x3_2"), both(long, "branch3x3dbl_3")]
            parts = [row("branch1x1"), *wide, layer("branch_pool", average)]
    with torch.inference_mode():
        torch.testing.assert_close(block(x), torch.cat(parts, 1), rtol=1e-4, atol=1e-4)


def test_files_that_are_not_there_or_not_these(vgg_file, inception_file, tmp_path):
    with pytest.raises(NotFoundError, match=r"no weights file at .*none\.pth"):
        load_published("vgg16:none.pth")
    with pytest.raises(ConfigError, match="vgg16:<file>"):
        load_published("vgg16")
    with pytest.raises(ConfigError, match=r"not the weights of vgg16_fc7: there is no classifier\.0\.bias"):
        load_published(f"vgg16_fc7:{vgg_file}")
    with pytest.raises(ConfigError, match=r"inception\.pth: not the weights of vgg16: there is no features\.0\.bias"):
        load_published(f"vgg16:{inception_file}")
    state = load_file(vgg_file)
    broken = tmp_path / "broken.safetensors"
    save_file({**state, "features.0.bias": torch.zeros(63)}, broken)
    with pytest.raises(ConfigError, match=r"features\.0\.bias: \[64\] expected, found \[63\]"):
        load_published(f"vgg16:{broken}")
    save_file({**state, "features.1.bias": torch.zeros(64)}, broken)
    with pytest.raises(ConfigError, match=r"it has no features\.1\.bias"):
        load_published(f"vgg16:{broken}")
    for name, content in (("cut.safetensors", vgg_file.read_bytes()[:1000]), ("cut.pth", b"PK no"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}: not a file of weights"):
            load_published(f"vgg16:{tmp_path / name}")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="a state dict"):
        load_published(f"vgg16:{tmp_path / 'list.pth'}")


def test_a_file_that_would_run_something_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ConfigError, match="not a file of weights"):
        load_published(f"vgg16:{tmp_path / 'evil.pth'}")
