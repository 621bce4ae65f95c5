"""Image bytes to pixels: the only module that knows Pillow.

Every picture is resized to a square by squashing (no crop, bicubic with antialiasing): nothing of the picture is lost,
and a region's box in [0, 1] is the same place in the picture that the user posted. Measured with ridge on the default
encoder's vector over clip art (4 folds by author, F1@5): squashed .230, centre crop after resizing to 256 px .219,
largest centred square .228, padded with white to a square .238 (but boxes would then be of another picture).
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Mapping

import imagehash
import numpy as np
from PIL import Image

from hashtag_core.data.file_signatures import LFS_POINTER, other_content
from hashtag_core.errors import ImageError, TooLargeImageError
from hashtag_core.faults import raise_if_machine

MAX_DECODED_PIXELS = 50_000_000
"""Largest picture that is decoded, in pixels after JPEG's own downscaling. Pillow itself refuses 178,956,970 undecoded."""

MAX_DECODED_BYTES = 384 << 20
"""What one picture may take in memory while it is decoded, beside its file: counted from its header, at the depth its decoder
works at, before a byte of it is decoded. With it a post takes 400 MiB at most."""

MAX_SCANS = 64
"""Scans of one JPEG; an encoder writes about 10. Each costs a pass over the whole picture (0.1 s for 50 megapixels) and can
be 80 bytes small, so without a limit a file of 1 MB keeps a process busy for half an hour."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What POST allows (JPEG with several pictures, MPO, is JPEG to Pillow too); no other decoder of Pillow is ever asked."""

SIGNATURES = {"JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG\r\n", "GIF": rb"GIF8", "WEBP": rb"RIFF.{4}WEBP"}

OTHER_KINDS = {
    "BMP": rb"BM.{4}\0{4}",
    "TIFF": rb"II\*\0|MM\0\*",
    "icon": rb"\0\0[\1\2]\0",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg\b",
    "AVIF or HEIC": rb".{4}ftyp(avi|hei|hev|mif|msf)",
    "Photoshop": rb"8BPS",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
}
"""Formats that are refused by name: what their content starts with."""

THUMBNAIL_QUALITY = 60
"""Of WebP, in which a clip-art picture of 160 px is 3 kB."""

ACROSS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
)
"""Turns after which width and height have changed places."""

HASH_SIDE_PX = 128
"""Side that a picture is decoded to before it is hashed: 4 times the 32 px the hash is made of."""

ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what sets the picture upright (EXIF 2.3, 4.6.4)."""


def decode_image(data: bytes, side_px: int, *, quoted: bool = True) -> np.ndarray:
    """uint8 [side_px, side_px, 3], RGB, upright. Not `quoted`, the error of what is no image says nothing of its content: for
    bytes that a stranger's reference led to.

    Transparency is laid over white, 16-bit greys are scaled to 8, an animation gives its first frame. A JPEG is decoded
    at the smallest of libjpeg's scales that is not below `side_px` (3 times the speed on a phone's photo).

    Raises ImageError that says why: empty, not an image (and what it starts with), truncated, too large, broken; MachineError
    where memory was short, which says nothing of the picture.
    """
    try:
        return _decoded(data, side_px, quoted)
    except TooLargeImageError:
        raise
    except ImageError:
        if not data.startswith(PNG) or (bare := _bare_png(data)) in (data, PNG):
            raise
    try:
        return _decoded(bare, side_px, quoted)
    except ImageError as error:
        raise type(error)(str(error).replace(f"of {len(bare)} bytes", f"of {len(data)} bytes")) from None


def _decoded(data: bytes, side_px: int, quoted: bool) -> np.ndarray:
    image = _open(data, quoted)
    kind = image.format
    try:
        _check_scans(image, data)
        _check_bytes(image, data)
        image.draft("RGB", (side_px, side_px))
        _check_size(image)
        image.load()
        turn = _turn(image)  # only now: a PNG is loaded to look for it
        square = _square(image, side_px)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001  Pillow's decoders raise anything: OSError, SyntaxError, struct.error, KeyError, ...
        raise_if_machine(error, "decoding a picture")
        message = str(error) or type(error).__name__
        cut = "truncated" in message or isinstance(error, EOFError) or "unrecognized data stream" in message
        raise ImageError(f"{'truncated' if cut else 'broken'} {kind} of {len(data)} bytes: {message}") from None
    return np.asarray(square if turn is None else square.transpose(turn))


def thumbnail(data: bytes, side_px: int) -> bytes:
    """The picture, upright, within a square of `side_px`, its proportions kept and never enlarged, as WebP without any metadata (no
    place, no camera). Raises ImageError and MachineError as `decode_image`."""
    square = Image.fromarray(decode_image(data, side_px))
    width, height = square.size
    with contextlib.suppress(ImageError):  # a PNG that only its bare chunks could be decoded of stays a square
        header = _open(data, quoted=True)
        width, height = header.size[::-1] if _turn(header) in ACROSS else header.size
    scale = min(1.0, side_px / max(width, height))
    out = io.BytesIO()
    small = square.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
    small.save(out, "WEBP", quality=THUMBNAIL_QUALITY, method=2)
    return out.getvalue()


def perceptual_hash(data: bytes) -> int | None:
    """64-bit DCT hash (pHash): the Hamming distance of two is small where the pictures look alike. None if unreadable."""
    try:
        pixels = decode_image(data, HASH_SIDE_PX)
    except ImageError:
        return None
    return int(str(imagehash.phash(Image.fromarray(pixels))), 16)


def image_key(data: bytes) -> str:
    """SHA-256 of the bytes, hex: what features are cached under."""
    return hashlib.sha256(data).hexdigest()


def _open(data: bytes, quoted: bool) -> Image.Image:
    if not data:
        raise ImageError("empty: 0 bytes")
    known = _named(data, SIGNATURES)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLargeImageError("too large: more than 178,956,970 pixels") from None
    except Exception as error:  # noqa: BLE001  (as above: a header can break a decoder in any way)
        raise_if_machine(error, "opening a picture")
        if known and isinstance(error, ValueError):  # a profile or a text that unpacks to more than Pillow allows
            raise ImageError(f"broken {known} of {len(data)} bytes: {error}") from None
        if known:
            raise ImageError(f"truncated {known} of {len(data)} bytes: its header is not whole") from None
    if other_content(data[:512]) == LFS_POINTER:
        raise ImageError(f"not an image: {LFS_POINTER}")
    if quoted and (other := _named(data, OTHER_KINDS)):
        raise ImageError(f"a picture in another format ({other}): expected JPEG, PNG, WebP or GIF")
    raise ImageError(f"not an image: {len(data)} bytes that start with {data[:16]!r}" if quoted else "not an image")


def _named(data: bytes, starts: Mapping[str, bytes]) -> str | None:
    return next((name for name, start in starts.items() if re.match(start, data[:256], re.DOTALL)), None)


def _check_scans(image: Image.Image, data: bytes) -> None:
    """A progressive JPEG is held whole by libjpeg, at its full size, and gone through once a scan."""
    if image.format not in ("JPEG", "MPO") or not image.info.get("progressive"):
        return
    _check_size(image)
    scans = data.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise ImageError(f"broken JPEG of {len(data)} bytes: {scans} scans, more than {MAX_SCANS}")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_DECODED_PIXELS:
        raise TooLargeImageError(f"too large: {width} x {height} pixels to decode, more than {MAX_DECODED_PIXELS:,}")
    if width * height == 0:
        raise ImageError(f"broken {image.format}: {width} x {height} pixels")


def decoded_bytes(image: Image.Image, data: bytes) -> int:
    """What decoding a picture takes beside its file, from its header: an upper bound where it is large. `image`: opened, not loaded."""
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO"):
        return int(pixels * _jpeg_bytes_a_pixel(image, data))
    return pixels * (WEBP_BYTES_A_PIXEL if image.format == "WEBP" else _bytes_a_pixel(image))


def _check_bytes(image: Image.Image, data: bytes) -> None:
    needed = decoded_bytes(image, data)
    if needed > MAX_DECODED_BYTES:
        raise TooLargeImageError(
            f"too large: {image.width} x {image.height} pixels take {needed >> 20:,} MiB to decode as {image.format} of mode "
            f"{image.mode}, more than {MAX_DECODED_BYTES >> 20:,} MiB"
        )


WEBP_BYTES_A_PIXEL = 16
"""libwebp's decoder of animations, which Pillow uses for all, holds two canvases of 4 bytes, hands out a third, and Pillow keeps one."""


def _bytes_a_pixel(image: Image.Image) -> int:
    """Of PNG and GIF: as Pillow holds them, and what `_square` makes of it before it is small."""
    size = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return size
    if image.mode.startswith("I;16"):
        return size + 1
    return size + (8 if image.has_transparency_data and image.mode not in ("RGBA", "LA") else 4)


def _jpeg_bytes_a_pixel(image: Image.Image, data: bytes) -> float:
    """What libjpeg holds at full size: the coefficients of all components (2 bytes each, fewer where colours are sampled
    coarsely) where they come in several scans, else some rows; what it gives is counted after downscaling."""
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", None) or [(1, 1, 1, 0)] * 3
    if not (image.info.get("progressive") or _has_several_scans(data, len(layers))):
        return 0.0
    most = max(h for _, h, _, _ in layers) * max(v for _, _, v, _ in layers)
    return 2.0 * float(sum(h * v for _, h, v, _ in layers)) / most


def _has_several_scans(data: bytes, components: int) -> bool:
    """Whether the first scan holds fewer components than the picture has, by the segments' own lengths."""
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return data[at + 4] < components
        at += (
            1
            if marker == 0xFF
            else 2
            if marker in (0x01, *range(0xD0, 0xD9))
            else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        )
    return True  # no segment where one has to be: the worst is taken


PNG = b"\x89PNG\r\n\x1a\n"
PIXELS_OF_PNG = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def _bare_png(data: bytes) -> bytes:
    """The PNG without its optional chunks: a comment, a colour profile or the frame of an animation that is broken does not
    make the pixels unreadable, and Pillow gives up at it (viewers show the picture)."""
    pieces, at = [PNG], len(PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in PIXELS_OF_PNG:
            pieces.append(data[at:end])
        at = end
    return b"".join(pieces)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception as error:  # noqa: BLE001  (a broken EXIF block does not make the picture unreadable)
        raise_if_machine(error, "reading a picture's EXIF block")
        return None


LARGE_PIXELS = 4_000_000
"""From here on a picture is made small before its mode is changed: 4 bytes a pixel in place of 20. Below, the order is that of
the pictures that models were trained on; the difference is in the last digits."""


def _square(image: Image.Image, side_px: int) -> Image.Image:
    if image.width * image.height <= LARGE_PIXELS:
        return _small(_rgb(image), side_px)
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_deep_grey(image)
    elif image.mode in ("P", "PA", "1") or (image.has_transparency_data and image.mode in ("L", "RGB")):
        image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB")
    if image.mode in ("RGBA", "LA"):  # what is transparent has a colour too, which must not shine through
        return _rgb(_small(image.convert({"RGBA": "RGBa", "LA": "La"}[image.mode]), side_px).convert(image.mode))
    return _rgb(_small(image, side_px))


def _small(image: Image.Image, side_px: int) -> Image.Image:
    return image.resize((side_px, side_px), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        image = _from_deep_grey(image)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits or floats as 8 bits, band by band; `convert` would cut them off at 255."""
    width, height = image.size
    top = float(np.nan_to_num(image.getextrema()[1]))
    scale = 1.0
    if image.mode.startswith("I;16") or (image.mode == "I" and top > 255):
        scale = 255.0 / max(65535.0, top)
    elif image.mode == "F" and top <= 1.0:
        scale = 255.0
    grey = np.empty((height, width), np.uint8)
    table = _to_bytes(np.arange(65536), scale) if image.mode.startswith("I;16") else None
    rows = max(1, (1 << 18) // max(width, 1))
    for begin in range(0, height, rows):
        band = np.asarray(image.crop((0, begin, width, min(height, begin + rows))))
        grey[begin : begin + rows] = _to_bytes(band, scale) if table is None else table[band]
    return Image.fromarray(grey)


def _to_bytes(values: np.ndarray, scale: float) -> np.ndarray:
    return np.clip(np.rint(np.nan_to_num(values.astype(np.float64)) * scale), 0, 255).astype(np.uint8)
