"""Where a computation waits for a GPU, seen without one.

Some operations give the process a number, or a tensor whose size depends on numbers: on a GPU they empty its queue first. They are
the same operations on a CPU, where they can be counted.
"""

import traceback
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "aten.equal")

ON_PURPOSE = {
    "layers.py": "cuDNN is given each caption's length by the process",
    "amnn.py": "cuDNN is given each caption's length by the process",
    "macon.py": "posts of a history that are not there are left out",
    "okboomer.py": "batch normalisation is over the posts that have a picture",
    "topics.py": "inference of topics ends when all of them stand still",
    "spelling.py": "a piece that no tag of the batch needs is cut off",
}
"""Files of families that read once or more in a step, and why. The coin of `sequence.py` is tossed on the CPU."""
ON_THE_CPU = frozenset({"sequence.py"})
OPTIMIZERS = "/torch/optim/"
"""Counts of steps, which torch's optimizers read, are kept on the CPU wherever the weights are."""


class HostReads(TorchDispatchMode):
    """`files`: those of the package in which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.files: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        reads = any(reading in name for reading in READING)
        if "aten.index.Tensor" in name or "aten.index_put" in name:
            reads = any(index is not None and index.dtype == torch.bool for index in args[1])
        if reads:
            stack = [frame.filename for frame in traceback.extract_stack()]
            frames = [file.rpartition("/")[2] for file in stack if "hashtag_core" in file]
            if not any(OPTIMIZERS in file for file in stack):
                self.files |= set(frames[-1:] or ["?"]) - ON_THE_CPU
        return func(*args, **(kwargs or {}))
