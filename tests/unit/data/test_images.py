"""Every kind of picture, good and broken, becomes pixels or an ImageError that says why."""

import contextlib
import hashlib
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hashtag_core.data import images
from hashtag_core.data.images import decode_image, image_key, perceptual_hash, thumbnail
from hashtag_core.errors import ImageError, MachineError, TooLargeImageError


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def two_halves(left=(255, 0, 0), right=(0, 0, 255), width=64, height=64) -> Image.Image:
    image = Image.new("RGB", (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_formats_decode_to_the_square_asked_for(kind):
    pixels = decode_image(encoded(two_halves(), kind), 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[16, 4].astype(int) - [255, 0, 0]).max() < 30
    assert np.abs(pixels[16, 28].astype(int) - [0, 0, 255]).max() < 30


def test_a_wide_picture_is_squashed_not_cropped():
    image = Image.new("RGB", (400, 40), (0, 255, 0))
    image.paste((255, 0, 0), (0, 0, 40, 40))
    pixels = decode_image(encoded(image, "PNG"), 40)
    assert tuple(pixels[20, 1]) == (255, 0, 0)  # the leftmost tenth is still there
    assert tuple(pixels[20, 38]) == (0, 255, 0)


def test_jpeg_is_decoded_at_a_lower_scale_with_like_result():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = coarse.resize((1600, 1200), Image.Resampling.BICUBIC)
    small = decode_image(encoded(image, "JPEG", quality=95), 64)
    whole = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(small.astype(int) - whole.astype(int)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(decode_image(data, 16), upright)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(mode):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image = clear.convert(mode) if mode != "P" else clear.quantize(4)
    assert (decode_image(encoded(image, "PNG"), 8) == 255).all()


def test_half_transparent_black_over_white_is_grey():
    data = encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG")
    assert (decode_image(data, 8) == 127).all()


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("L", "JPEG")])
def test_other_colour_modes(mode, kind):
    pixels = decode_image(encoded(two_halves((0, 0, 0), (255, 255, 255)).convert(mode), kind), 16)
    assert pixels[8, 2].max() < 40
    assert pixels[8, 13].min() > 215


def test_sixteen_bit_greys_are_scaled_not_cut_off():
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    pixels = decode_image(encoded(Image.fromarray(values), "PNG"), 8)
    assert np.abs(pixels[..., 0].astype(float) - values / 257).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 255, 0))
    pixels = decode_image(encoded(first, kind, save_all=True, append_images=[second]), 8)
    assert np.abs(pixels[4, 4].astype(int) - [255, 0, 0]).max() < 20


def test_one_pixel():
    assert decode_image(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), 4).tolist() == [[[9, 8, 7]] * 4] * 4


def test_truncated_files_say_so():
    for kind in ("JPEG", "PNG"):
        data = encoded(Image.effect_noise((200, 200), 90).convert("RGB"), kind)
        with pytest.raises(ImageError, match=f"^truncated {kind} of"):
            decode_image(data[: len(data) // 2], 32)
        with pytest.raises(ImageError, match=f"^truncated {kind} of 12 bytes"):
            decode_image(data[:12], 32)


def test_what_is_no_image_says_what_it_starts_with():
    with pytest.raises(ImageError, match=r"not an image: 24 bytes that start with b'<!DOCTYPE html><'"):
        decode_image(b"<!DOCTYPE html><html></h", 32)
    with pytest.raises(ImageError, match="empty"):
        decode_image(b"", 32)


def png_claiming(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + head, b"IDAT" + zlib.compress(b"\0" * 64), b"IEND"]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_decompression_bombs_are_refused_before_decoding():
    with pytest.raises(ImageError, match="too large: 10000 x 10000 pixels"):
        decode_image(png_claiming(10_000, 10_000), 32)
    with pytest.raises(ImageError, match="too large"):
        decode_image(png_claiming(60_000, 60_000), 32)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_else(data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP"]))
    raw = bytearray(encoded(two_halves(), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(raw), 16).shape == (16, 16, 3)


def test_perceptual_hash_is_near_for_like_pictures(make_jpeg):
    from hashtag_core.data.images import HASH_SIDE_PX

    data = make_jpeg(3, 300, 200)
    again = encoded(Image.open(io.BytesIO(data)).resize((200, 140)), "JPEG", quality=60)
    first, second, other = perceptual_hash(data), perceptual_hash(again), perceptual_hash(make_jpeg(4))
    assert 0 <= first < 2**64
    assert (first ^ second).bit_count() <= 6 < (first ^ other).bit_count()
    assert perceptual_hash(b"no image") is None
    # the definition: signs of the lowest 8x8 DCT coefficients of the 32x32 grey picture, about their median
    from scipy.fftpack import dct

    grey = Image.fromarray(decode_image(data, HASH_SIDE_PX)).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    low = dct(dct(np.asarray(grey, float), axis=0), axis=1)[:8, :8]
    assert first == int("".join("1" if v else "0" for v in (low > np.median(low)).flatten()), 2)


def test_image_key_is_the_sha256_of_the_bytes():
    assert image_key(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("where", ["_open_as", "_rgb", "_turn_of"])
@pytest.mark.parametrize(
    "fault", [MemoryError(), OSError("out of memory error when reading image file"), OSError(5, "I/O")]
)
def test_a_machine_short_of_memory_says_nothing_of_the_picture(monkeypatch, where, fault):
    """Neither as an unreadable picture nor, in `prepare`, as none at all."""

    def short(*_, **__):
        raise fault

    places = {"_open_as": (Image, "open"), "_rgb": (images, "_rgb"), "_turn_of": (Image.Image, "getexif")}
    monkeypatch.setattr(*places[where], short)
    for work in (lambda data: decode_image(data, 32), perceptual_hash):
        with pytest.raises(MachineError, match="picture"):
            work(encoded(two_halves(), "PNG"))


MEMORY = """
import io
import numpy as np
from PIL import Image
from hashtag_core.data.images import decode_image, decoded_bytes

def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()

def blank(mode, side=3000):
    return Image.new(mode, (side, side))

def held(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024

made = {
    "PNG of 16 bits": lambda: encoded(Image.fromarray(np.zeros((3000, 3000), np.uint16)), "PNG"),
    "PNG": lambda: encoded(blank("RGB"), "PNG"),
    "PNG with alpha": lambda: encoded(blank("RGBA"), "PNG"),
    "PNG with a transparent colour": lambda: encoded(blank("P"), "PNG", transparency=0),
    "grey PNG with a transparent one": lambda: encoded(blank("L"), "PNG", transparency=0),
    "PNG of a bit": lambda: encoded(blank("1"), "PNG"),
    "APNG": lambda: encoded(blank("RGBA"), "PNG", save_all=True, append_images=[Image.new("RGBA", (3000, 3000), "red")]),
    "WebP": lambda: encoded(blank("RGB"), "WEBP", lossless=True),
    "GIF": lambda: encoded(blank("P"), "GIF"),
    "GIF of two": lambda: encoded(blank("P"), "GIF", save_all=True, append_images=[Image.new("P", (3000, 3000), 3)]),
    "JPEG": lambda: encoded(blank("RGB", 6000), "JPEG"),
    "progressive JPEG": lambda: encoded(blank("RGB"), "JPEG", progressive=True),
    "progressive JPEG, whole colours": lambda: encoded(blank("RGB"), "JPEG", progressive=True, subsampling=0),
    "progressive JPEG of four": lambda: encoded(blank("CMYK"), "JPEG", progressive=True),
}
decode_image(encoded(blank("RGB", 9), "PNG"), 224)
for name, make in made.items():
    data = make()
    counted = decoded_bytes(Image.open(io.BytesIO(data)), data) / 2**20
    open("/proc/self/clear_refs", "w").write("5")
    before = held("VmRSS")
    assert decode_image(data, 224).shape == (224, 224, 3)
    print(f"{held('VmHWM') - before:.0f} {counted:.0f} {name}")
"""


def test_no_picture_takes_more_memory_than_is_counted(repository):
    """What the header tells is an upper bound (the limit is on that), for every kind of decoder; 8 MiB are the small square's."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = {
        name: (int(took), int(counted)) for took, counted, name in (x.split(" ", 2) for x in done.stdout.splitlines())
    }
    assert len(told) == 14
    assert not {name: both for name, both in told.items() if both[0] > both[1] + 8}, told
    assert max(counted for _, counted in told.values()) < 160


def one_component_first(width: int, height: int) -> bytes:
    """A sequential JPEG that says that its first scan holds one component of three: libjpeg then holds the whole picture."""
    data = encoded(Image.new("RGB", (width, height)), "JPEG", subsampling=0)
    at = data.index(b"\xff\xda\x00\x0c\x03")
    return data[:at] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + data[at + 14 :]


@pytest.mark.parametrize(
    "picture",
    [
        encoded(Image.new("P", (7000, 7000)), "PNG", transparency=0),
        encoded(Image.new("RGB", (16383, 3000)), "WEBP", lossless=True),
        one_component_first(9000, 9000),
    ],
    ids=["a palette", "WebP", "several scans"],
)
def test_what_would_take_more_is_refused_by_its_header(picture, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("its pixels are looked at"))
    with pytest.raises(TooLargeImageError, match=r"^too large: \d+ x \d+ pixels take \d+ MiB to decode as"):
        decode_image(picture, 224)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
@pytest.mark.parametrize("transparency", [None, 7])
def test_large_pictures_look_as_small_ones_do(mode, transparency, monkeypatch):
    """The order of the steps changes nothing that is seen, transparent colours included."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 4), dtype=np.uint8)).resize(
        (700, 500), Image.Resampling.BICUBIC
    )
    image = coarse.convert("RGB").convert(mode) if mode in ("P", "1", "L") else coarse.convert(mode)
    options = {} if transparency is None or mode not in ("P", "L") else {"transparency": transparency}
    data = encoded(image, "PNG", **options)
    exact = decode_image(data, 64).astype(int)
    monkeypatch.setattr(images, "LARGE_PIXELS", 1)
    assert np.abs(decode_image(data, 64).astype(int) - exact).max() <= 6
    assert np.abs(decode_image(data, 64).astype(int) - exact).mean() < 0.7


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    sum_of = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_of)


FRAME = struct.pack(">IIIIIHHBB", 5, 64, 64, 0, 0, 1, 10, 0, 0)
OPTIONAL = {
    "crc of tEXt": chunk(b"tEXt", b"Comment\0hello", 1),
    "crc of gAMA": chunk(b"gAMA", struct.pack(">I", 45455), 1),
    "method of iCCP": chunk(b"iCCP", b"ICC\0\1abc"),
    "method of zTXt": chunk(b"zTXt", b"k\0\7abc"),
    "a short pHYs": chunk(b"pHYs", b"1"),
    "a short cHRM": chunk(b"cHRM", b"1"),
    "a text that unpacks to much": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100 << 20))),
    "frame of APNG": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", FRAME),
}


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_broken_optional_chunk_does_not_cost_the_picture(name, mode):
    whole = encoded(two_halves().convert(mode), "PNG", **({"transparency": 3} if mode == "P" else {}))
    data = whole[:33] + OPTIONAL[name] + whole[33:]
    assert np.array_equal(decode_image(data, 32), decode_image(whole, 32))
    with pytest.raises(ImageError, match=rf"^(broken|truncated) PNG of {len(data) - 40} bytes"):
        decode_image(data[:-40], 32)


def test_a_thumbnail_keeps_proportions_turns_upright_and_tells_nothing(make_jpeg):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker of the camera"
    data = thumbnail(make_jpeg(1, width=400, height=200, exif=exif.tobytes()), 100)
    small = Image.open(io.BytesIO(data))
    assert (small.format, small.size) == ("WEBP", (50, 100))
    assert not small.getexif()
    assert b"maker" not in data
    assert Image.open(io.BytesIO(thumbnail(make_jpeg(1, width=40, height=20), 100))).size == (40, 20), "never enlarged"
    with pytest.raises(ImageError, match="truncated"):
        thumbnail(make_jpeg(1, width=400, height=300)[:2000], 100)
