"""Image bytes to pixels: the only module that knows Pillow.

Every picture is resized to a square by squashing (no crop, bicubic with antialiasing): nothing of the picture is lost,
and a region's box in [0, 1] is the same place in the picture that the user posted. Measured with ridge on the default
encoder's vector over clip art (4 folds by author, F1@5): squashed .230, centre crop after resizing to 256 px .219,
largest centred square .228, padded with white to a square .238 (but boxes would then be of another picture).
"""

import hashlib
import io
import re
from collections.abc import Mapping

import imagehash
import numpy as np
from PIL import Image

from hashtag_core.errors import ImageError

MAX_DECODED_PIXELS = 50_000_000
"""Largest picture that is decoded, in pixels after JPEG's own downscaling. Pillow itself refuses 178,956,970 undecoded."""

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


def decode_image(data: bytes, side_px: int) -> np.ndarray:
    """uint8 [side_px, side_px, 3], RGB, upright.

    Transparency is laid over white, 16-bit greys are scaled to 8, an animation gives its first frame. A JPEG is decoded
    at the smallest of libjpeg's scales that is not below `side_px` (3 times the speed on a phone's photo).

    Raises ImageError that says why: empty, not an image (and what it starts with), truncated, too large, broken.
    """
    image = _open(data)
    kind = image.format
    try:
        turn = _load(image, data, side_px)
        square = _rgb(image).resize((side_px, side_px), Image.Resampling.BICUBIC, reducing_gap=3.0)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001  (as in `_load`: resizing a broken picture may raise too)
        raise _broken(error, kind, data) from None
    return np.asarray(square if turn is None else square.transpose(turn))


def thumbnail(data: bytes, side_px: int) -> bytes:
    """The picture, upright, within a square of `side_px`, its proportions kept, as WebP without any metadata (no place, no camera).

    Raises ImageError as `decode_image`.
    """
    image = _open(data)
    kind = image.format
    try:
        turn = _load(image, data, side_px)
        small = _rgb(image)
        small.thumbnail((side_px, side_px), Image.Resampling.BICUBIC, reducing_gap=3.0)
        out = io.BytesIO()
        (small if turn is None else small.transpose(turn)).save(out, "WEBP", quality=THUMBNAIL_QUALITY, method=2)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001  (as above)
        raise _broken(error, kind, data) from None
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


def _load(image: Image.Image, data: bytes, side_px: int) -> Image.Transpose | None:
    """Decode the picture, no larger than is needed for `side_px`; what sets it upright. Pillow's decoders raise anything:
    OSError, SyntaxError, struct.error, KeyError, ..."""
    _check_scans(image, data)
    image.draft("RGB", (side_px, side_px))
    _check_size(image)
    image.load()
    return _turn(image)  # only now: a PNG is loaded to look for it


def _broken(error: Exception, kind: str | None, data: bytes) -> ImageError:
    told = str(error) or type(error).__name__
    cut = "truncated" in told or isinstance(error, EOFError) or "unrecognized data stream" in told
    return ImageError(f"{'truncated' if cut else 'broken'} {kind} of {len(data)} bytes: {told}")


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("empty: 0 bytes")
    known = _named(data, SIGNATURES)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError("too large: more than 178,956,970 pixels") from None
    except Exception as error:  # noqa: BLE001  (as above: a header can break a decoder in any way)
        if known and isinstance(error, ValueError):  # a profile or a text that unpacks to more than Pillow allows
            raise ImageError(f"broken {known} of {len(data)} bytes: {error}") from None
        if known:
            raise ImageError(f"truncated {known} of {len(data)} bytes: its header is not whole") from None
    if other := _named(data, OTHER_KINDS):
        raise ImageError(f"a picture in another format ({other}): expected JPEG, PNG, WebP or GIF")
    raise ImageError(f"not an image: {len(data)} bytes that start with {data[:16]!r}")


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
        raise ImageError(f"too large: {width} x {height} pixels to decode, more than {MAX_DECODED_PIXELS:,}")
    if width * height == 0:
        raise ImageError(f"broken {image.format}: {width} x {height} pixels")


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  (a broken EXIF block does not make the picture unreadable)
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _from_deep_grey(image)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits or floats; `convert` would cut them off at 255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = values.max(initial=0.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and top > 255):
        values *= 255.0 / max(65535.0, top)
    elif image.mode == "F" and top <= 1.0:
        values *= 255.0
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
