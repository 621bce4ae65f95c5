"""Which backend runs an encoder here: measured on this machine once, and remembered.

Flags of a processor do not tell it: bfloat16 wins where matrix units compute it, ONNX Runtime where they do not, and by how much
depends on the versions of both. The first process of a machine that asks measures and writes the winner down; all others, and all
later runs, read it, so that the processes of one run agree whatever noise there was.
"""

import hashlib
import json
import logging
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from hashtag_core.config import EncodersSection
from hashtag_core.encoders.packaged import cache_folder

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]

FORMAT = 1
"""To be raised when what is measured changes."""

ROUNDS = 3
"""Timed runs of each candidate; the best counts. What is timed is the CPU time of this process: processes of one job start together
and take each other's cores, and what a pass costs is what decides how many a machine does."""

MARGIN = 1.15
"""A candidate replaces the one before it where it is that much faster: a near tie goes one way on machines of one kind."""


def choose(
    candidates: Mapping[str, Callable[[], Callable[[], object]]], made_of: list[Any], *, what: str
) -> tuple[str, dict[str, float]]:
    """The name of the fastest candidate, and the CPU seconds of each (empty where another process had measured).

    `candidates`: in order of preference, each a function that loads it and gives a function that runs it once on a fixed sample;
    one that raises is not chosen, the first has to work. `made_of`: what the choice depends on beside the machine (weights,
    versions, threads). `what` names the encoder in the log.
    """
    key = hashlib.sha256(repr([FORMAT, *made_of, list(candidates), processor()]).encode()).hexdigest()[:24]
    file = cache_folder("backends") / f"{key}.json"
    remembered = _read(file, candidates)
    if remembered is not None:
        return remembered, {}
    seconds: dict[str, float] = {}
    for position, (name, load) in enumerate(candidates.items()):
        try:
            run = load()
            run()
            seconds[name] = min(_timed(run) for _ in range(ROUNDS))
        except Exception as error:
            if position == 0:
                raise
            logger.info("%s does not run as %s here: %s", what, name, error)
    best, *others = seconds
    for name in others:
        if seconds[name] * MARGIN <= seconds[best]:
            best = name
    try:
        _write(file, {"backend": best, "seconds": seconds, "what": what})
    except OSError as error:  # a full or a read-only disk: measured again next time
        logger.warning("which backend runs %s could not be written down: %s", what, error)
    logger.info(
        "%s runs as %s here; CPU seconds measured: %s", what, best, {k: round(v, 4) for k, v in seconds.items()}
    )
    # Two processes that measured at once: the file that stands is the choice of both.
    return _read(file, candidates) or best, seconds


def processor() -> list[str]:
    """What tells this machine's kind of processor: architecture, model and instruction sets."""
    found = [platform.machine(), str(os.cpu_count())]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [*found, platform.processor()]
    for wanted in ("model name", "flags", "Features", "CPU part"):
        found += [line for line in lines if line.startswith(wanted)][:1]
    # Libraries can be told to use less than the processor has.
    return found + [f"{name}={os.environ.get(name)}" for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")]


def _timed(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _read(file: Path, candidates: Mapping[str, Any]) -> str | None:
    name = _backend_in(file)
    return name if name in candidates else None


def _backend_in(file: Path) -> str | None:
    try:
        return str(json.loads(file.read_bytes())["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Measured(TypedDict):
    """What was measured of an encoder on this machine: the backend that is taken, and the seconds of each."""

    backend: str
    seconds: dict[str, float]
    what: str


def _write(file: Path, value: Measured) -> None:
    """Whole or not at all, and never over what another process has written."""
    temporary = file.with_suffix(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text(json.dumps(value))
    try:
        os.link(temporary, file)
    except FileExistsError:
        if _backend_in(file) is None:
            temporary.replace(file)
    except OSError:  # a file system without links
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def precision_of(section: EncodersSection, device: torch.device) -> Precision:
    """`auto`: bfloat16 where the device computes it."""
    if section.precision != "auto":
        return section.precision
    if device.type == "cuda":
        computes = torch.cuda.is_bf16_supported()
    else:
        computes = device.type == "cpu" and _cpu_computes_bfloat16()
    return "bfloat16" if computes else "float32"


def _cpu_computes_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
