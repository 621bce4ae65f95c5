"""How many actors a tagging run asks for, what each reserves, and how it is fed.

A machine that is all there is is divided among its actors. A cluster of several machines, or one at rest, begins with those that
what is up has room for; while tasks wait, Ray asks its autoscaler for machines, puts actors on what comes, up to as many as the
work can use, and ends those that no task is left for, so that their machines can go. An actor there reserves what it uses:
were it half a CPU, twice as many would fit the first machine and no second one would start.
"""

from dataclasses import dataclass

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
        return min(tasks, self.actors or max(self.least or 1, -(-tasks // TASKS_PER_ACTOR)))


def actor_pool(section: TaggingSection, cpus: float, gpus: float, grows: bool) -> ActorPool:
    """The pool on a cluster of which so many CPUs and GPUs are up, and that may grow or not.

    ConfigError where `gpus = "always"` and a single machine has none.
    """
    if section.gpus == "always" and not grows and not gpus:
        raise ConfigError("tagging.gpus: 'always' needs a GPU, this machine has none")
    on_gpus = section.gpus != "never" and (gpus >= 1 or (grows and section.gpus in ("always", "cluster")))
    up = int(gpus) if on_gpus else max(1, int(cpus))
    if not grows:
        count = section.actors or up
        threads = max(1, int(cpus) // count)
        return ActorPool(count, SHARED_CPUS, float(on_gpus) or None, threads, _ahead(on_gpus, cpus, count))
    end_s = max(STALL_TIMEOUT_S, section.start_timeout_s)
    least = None if section.actors else max(1, up)
    if not on_gpus:
        return ActorPool(section.actors, 1.0, least=least, end_s=end_s)
    threads = max(1, int(cpus) // up) if up else GPU_MACHINE_CPUS
    ahead = _ahead(True, cpus, section.actors or up) if up else GPU_MACHINE_CPUS
    return ActorPool(section.actors, SHARED_CPUS, 1.0, threads, ahead, least=least, end_s=end_s)


def _ahead(on_gpus: bool, cpus: float, actors: int) -> int:
    """0 on CPUs, where an actor that opens its own posts is the faster (299 against 207 images/s on two), and where GPU actors leave
    no CPU free, since such a task would wait for ever."""
    free = int(cpus - actors * SHARED_CPUS)
    return -(-free // actors) + 1 if on_gpus and free >= 1 else 0
