"""A Ray of several raylets on this machine, in a process of its own: it prints its address, then takes lines on stdin.

    add CPUS    one more raylet
    kill        the raylet that was added last is killed, with all that runs on it

Each is answered by a line. At the end of stdin all is ended.
"""

import os
import sys
import tempfile

from ray.cluster_utils import Cluster

OBJECT_STORE = 80_000_000


def main(folder: str) -> None:
    os.makedirs(
        os.path.join(tempfile.gettempdir(), "ray"), exist_ok=True
    )  # Ray writes the address there, and makes no folder
    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, "object_store_memory": OBJECT_STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print(cluster.address, flush=True)
    added = []
    for line in sys.stdin:
        what, *cpus = line.split()
        if what == "kill":
            cluster.remove_node(added.pop(), allow_graceful=False)
        else:
            added.append(cluster.add_node(num_cpus=int(cpus[0]), object_store_memory=OBJECT_STORE))
        print(f"{what} done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
