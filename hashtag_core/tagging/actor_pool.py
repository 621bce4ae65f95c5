"""How many actors work with a model is given, what each reserves, and how it is fed.

A machine that is all there is is divided among its actors. A cluster of several machines, or one at rest, begins with those that
what is up has room for; while tasks wait, Ray asks its autoscaler for machines, puts actors on what comes, up to as many as the
work can use, and ends those that no task is left for, so that their machines can go. An actor there reserves what it uses:
were it half a CPU, twice as many would fit the first machine and no second one would start.
"""

from dataclasses import dataclass, replace

from hashtag_core.config import TaggingSection
from hashtag_core.errors import ConfigError

SHARED_CPUS = 0.5
"""What an actor reserves on a single machine, and beside its GPU: it uses a whole CPU, and leaves room for Ray and for reading."""

TASKS_PER_ACTOR = 4
"""A machine of a cluster is worth its start for so many tasks: an actor loads its model for about as long as a task takes."""

GPU_MACHINE_CPUS = 4
"""CPUs beside a GPU that is not up yet."""

STALL_TIMEOUT_S = 600
"""Without a result from any actor: the end of the run. A chunk takes seconds, the start of actors a minute."""


@dataclass(frozen=True)
class ActorPool:
    """What a run asks of Ray."""

    actors: int | None
    """None: as many as the work can use."""
    cpus: float = SHARED_CPUS
    gpus: float | None = None
    threads: int = 1
    """CPU threads of each actor."""
    decode_ahead: int = 0
    """Batches that are opened ahead for each actor by tasks on CPUs."""
    least: int | None = None
    """Actors that the run begins with where it may have more; None: it has as many from beginning to end."""
    end_s: float = STALL_TIMEOUT_S
    """Seconds without a result from any actor after which the run ends."""

    @property
    def device(self) -> str:
        """Of each actor, as PyTorch names it."""
        return "cuda" if self.gpus else "cpu"

    def size(self, tasks: int) -> int:
        """Actors that so many tasks are given to."""
        return max(1, min(tasks, self.actors or max(self.least or 1, -(-tasks // TASKS_PER_ACTOR))))


def actor_pool(section: TaggingSection, cpus: float, gpus: float, grows: bool) -> ActorPool:
    """The pool on a cluster of which so many CPUs and GPUs are up, and that may grow or not.

    ConfigError where `gpus = "always"` and a single machine has none.
    """
    if section.gpus == "always" and not grows and not gpus:
        raise ConfigError("tagging.gpus: 'always' needs a GPU, this machine has none")
    on_gpus = section.gpus != "never" and (gpus >= 1 or (grows and section.gpus in ("always", "cluster")))
    pool = share_out(cpus, int(gpus) if on_gpus else None, grows, section.actors)
    return replace(pool, end_s=max(STALL_TIMEOUT_S, section.start_timeout_s)) if grows else pool


def share_out(cpus: float, gpus: int | None, grows: bool, actors: int | None = None) -> ActorPool:
    """Actors on so many GPUs, each with one (0: they are to be started), or on CPUs alone (None); `actors` of them, neither more nor
    less, or as many as there is room and work for."""
    up = max(1, int(cpus) if gpus is None else gpus)
    each = None if gpus is None else 1.0
    if not grows:
        count = actors or up
        return ActorPool(count, SHARED_CPUS, each, max(1, int(cpus) // count), _ahead(cpus, count) if each else 0)
    least = None if actors else up
    if gpus is None:
        return ActorPool(actors, 1.0, least=least)
    if gpus == 0:
        return ActorPool(actors, SHARED_CPUS, each, GPU_MACHINE_CPUS, GPU_MACHINE_CPUS, least)
    return ActorPool(actors, SHARED_CPUS, each, max(1, int(cpus) // gpus), _ahead(cpus, actors or gpus), least)


def _ahead(cpus: float, actors: int) -> int:
    """Beside GPUs; 0 where their actors leave no CPU free, since a task that opens posts would wait for ever. On CPUs an actor that opens
    its own posts is the faster (299 against 207 images/s on two)."""
    free = int(cpus - actors * SHARED_CPUS)
    return -(-free // actors) + 1 if free >= 1 else 0
