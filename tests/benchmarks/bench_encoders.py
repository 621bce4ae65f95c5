"""Images and captions a second for each backend and precision, beside eager torch in float32. Run by hand:

    python tests/benchmarks/bench_encoders.py [--images 128] [--captions 512] [--threads 2] [--rounds 3]

The ways take turns, so that a noisy machine is noisy for all; the best round of each counts. `off` is the largest
difference from float32 in torch.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from hashtag_core.config import EncodersSection
from hashtag_core.encoders import Encoders, load_encoders

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
    "text": [("torch", "float32"), ("torch", "bfloat16")],
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 128), ("captions", 512), ("threads", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    items = content(arguments.images, arguments.captions)
    print(f"{'encoder':24}{'way':26}{'a second':>10}{'ratio':>8}{'off':>10}")
    for of, ways in WAYS.items():
        needs = frozenset({f"{of}_vector", "image_grid" if of == "image" else "text_states"})
        loaded = {}
        for backend, precision in ways:
            section = EncodersSection(backend=backend, precision=precision)
            loaded[backend, precision] = load_encoders(section, needs, "cpu", threads=arguments.threads)
        chosen = load_encoders(EncodersSection(), needs, "cpu", threads=arguments.threads).backends[of]
        results = {way: run(encoders, of, items[of]) for way, encoders in loaded.items()}  # and warm
        best = dict.fromkeys(loaded, float("inf"))
        for _ in range(arguments.rounds):
            for way, encoders in loaded.items():
                start = time.perf_counter()
                run(encoders, of, items[of])
                best[way] = min(best[way], time.perf_counter() - start)
        base = ways[0]
        for way in ways:
            name = "-".join(way) + (" (auto)" if "-".join(way) == chosen else "")
            rate, ratio = len(items[of]) / best[way], best[base] / best[way]
            off = np.abs(results[way] - results[base]).max()
            print(f"{EncodersSection().model_dump()[of]:24}{name:26}{rate:>10.0f}{ratio:>8.2f}{off:>10.4f}")


if __name__ == "__main__":
    main()
