"""Images and captions a second for each backend and precision, beside eager torch in float32. Run by hand:

    python tests/benchmarks/bench_encoders.py [--images 128] [--captions 512] [--threads 2] [--rounds 3] [--int8]

The ways take turns, so that a noisy machine is noisy for all; the best round of each counts. `cpu` is per second of CPU time, which
other processes do not take away. `off` is the largest difference from float32 in torch, `cosine` the mean and the least of the
vectors. `--int8` adds what is not offered: the graphs of ONNX Runtime with weights and activations in int8, captions by dynamic
quantisation, images by static quantisation calibrated on one half of the pictures.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from hashtag_core.config import EncodersSection
from hashtag_core.encoders import Encoders, load_encoders, onnx

WORDS = [
    "a",
    "red",
    "bird",
    "sits",
    "on",
    "the",
    "branch",
    "of",
    "an",
    "old",
    "tree",
    "while",
    "the",
    "sun",
    "goes",
    "down",
    "behind",
    "hills",
    "and",
    "houses",
]
WAYS = {
    "image": [("torch", "float32"), ("onnx", "float32")],
    "text": [("torch", "float32"), ("torch", "bfloat16"), ("onnx", "float32")],
}


def content(images: int, captions: int) -> dict[str, list]:
    """Noise that looks like pictures (the time does not depend on it), captions of 4 to 40 words."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 14, 14, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    texts = [" ".join(rng.choice(WORDS, rng.integers(4, 41))) for _ in range(captions)]
    return {"image": list(pixels), "text": texts}


def run(encoders: Encoders, of: str, items: list) -> np.ndarray:
    found = encoders.encode_images(items) if of == "image" else encoders.encode_captions(items)
    return found[f"{of}_vector"].astype(np.float32)


def in_int8(of: str, pixels: list, threads: int, folder: Path) -> Encoders:
    """The ONNX backend with its graph quantised to int8, per channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    encoders = load_encoders(EncodersSection(backend="onnx"), frozenset({f"{of}_vector"}), "cpu", threads=threads)
    backend = encoders._image_encoder.backend if of == "image" else encoders._text_encoder.backend
    graph, target = backend.session._model_path, folder / f"{of}-int8.onnx"
    if of == "text":
        quantize_dynamic(graph, target, per_channel=True, weight_type=QuantType.QInt8)
    else:
        half = np.stack(pixels[::2])

        class Half(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = iter([{"pixels": half[start : start + 16]} for start in range(0, len(half), 16)])

            def get_next(self) -> dict | None:
                return next(self.left, None)

        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(graph, str(target), Half(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    backend.session = onnx.open_session(target, threads)
    return encoders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 128), ("captions", 512), ("threads", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--int8", action="store_true")
    arguments = parser.parse_args()
    items = content(arguments.images, arguments.captions)
    print(f"{'encoder':20}{'way':24}{'a second':>10}{'cpu':>8}{'ratio':>8}{'off':>9}{'cosine':>17}")
    for of, ways in WAYS.items():
        needs = frozenset({f"{of}_vector"})
        loaded = {}
        for backend, precision in ways:
            section = EncodersSection(backend=backend, precision=precision)
            loaded[f"{backend}-{precision}"] = load_encoders(section, needs, "cpu", threads=arguments.threads)
        chosen = load_encoders(EncodersSection(), needs, "cpu", threads=arguments.threads).backends[of]
        with tempfile.TemporaryDirectory() as folder:
            if arguments.int8:
                loaded["onnx-int8"] = in_int8(of, items["image"], arguments.threads, Path(folder))
            results = {way: run(encoders, of, items[of]) for way, encoders in loaded.items()}  # and warm
            wall, cpu = dict.fromkeys(loaded, float("inf")), dict.fromkeys(loaded, float("inf"))
            for _ in range(arguments.rounds):
                for way, encoders in loaded.items():
                    start, began = time.perf_counter(), time.process_time()
                    run(encoders, of, items[of])
                    wall[way] = min(wall[way], time.perf_counter() - start)
                    cpu[way] = min(cpu[way], time.process_time() - began)
        (base, *_) = loaded
        unit = {way: value / np.linalg.norm(value, axis=1, keepdims=True) for way, value in results.items()}
        for way in loaded:
            cosine = (unit[way] * unit[base]).sum(1)
            off, ratio, count = np.abs(results[way] - results[base]).max(), wall[base] / wall[way], len(items[of])
            print(
                f"{EncodersSection().model_dump()[of]:20}{way + (' (auto)' if way == chosen else ''):24}"
                f"{count / wall[way]:>10.0f}{count / cpu[way]:>8.0f}{ratio:>8.2f}{off:>9.4f}"
                f"{cosine.mean():>9.4f}{cosine.min():>8.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
