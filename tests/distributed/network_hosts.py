"""Hosts on one machine: each a network namespace with an address, a host name, a hosts file and folders that no other uses.

All stand on one bridge, so that a link can be cut between a host and all others, which a killed process is not.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

SUBNET = "10.77.43"


def why_not() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip` here (the package iproute2 has it)"
    tried = subprocess.run(
        [
            "unshare",
            "--net",
            "--mount",
            "--uts",
            "sh",
            "-c",
            "mount -t tmpfs none /mnt && ip link add vetha type veth peer name vethb",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if tried.returncode == 0 else f"namespaces are not permitted here: {tried.stderr.strip()}"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Host:
    """One of them; `name` is its host name, `address` on the bridge."""

    def __init__(self, network: "Network", name: str, address: str) -> None:
        self.network, self.name, self.address = network, name, address
        self.namespace, self.link = f"{network.prefix}{name}", f"{network.prefix}{name}"
        ip("netns", "add", self.namespace)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        ip("link", "set", self.link, "master", network.bridge, "up")
        ip("-n", self.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            ip("-n", self.namespace, "link", "set", device, "up")
        self.folder = network.folder / name
        for name_of_folder in ("home", "tmp", "ray"):
            (self.folder / name_of_folder).mkdir(parents=True)

    def start(self, *command: object, **options: Any) -> subprocess.Popen[str]:
        """Begin a command on the host. Its home, its temporary files and Ray's sessions are the host's own."""
        inside = (
            f"hostname {self.name}; mount --bind {self.network.hosts_file} /etc/hosts; "
            f"mkdir -p /tmp/ray; mount --bind {self.folder / 'ray'} /tmp/ray; mount -t tmpfs -o size=2g none /dev/shm; "
            'cd "$HOME"; exec "$@"'
        )
        folders = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp")}
        environment = {**os.environ, **self.network.variables, **folders}
        environment.pop("RAY_ADDRESS", None)
        environment |= options.pop("variables", {})
        log = (self.folder / "log").open("ab")
        return subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.namespace,
                "unshare",
                "--mount",
                "--uts",
                "sh",
                "-c",
                inside,
                "sh",
                *map(str, command),
            ],
            env=environment,
            stdout=options.pop("stdout", log),
            stderr=log,
            text=True,
            start_new_session=True,
            **options,
        )

    def cut(self) -> None:
        """Take the link away: packets to and from the host are lost, and no one is told."""
        ip("link", "set", self.link, "down")

    def mend(self) -> None:
        ip("link", "set", self.link, "up")

    def pids(self) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        return [int(pid) for pid in done.stdout.split()]

    def kill(self) -> None:
        """End every process of the host."""
        for _ in range(50):
            pids = self.pids()
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not pids:
                return
            time.sleep(0.1)

    def said(self) -> str:
        """The end of what its processes wrote to stderr."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]


class Network:
    """A bridge with hosts on it; `variables` are in the environment of all their processes."""

    def __init__(self, folder: Path, names: list[str], variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, variables
        self.prefix = f"h{os.getpid() % 10_000}"
        self.bridge = f"{self.prefix}br"
        self.hosts: dict[str, Host] = {}
        addresses = {name: f"{SUBNET}.{n}" for n, name in enumerate(names, start=1)}
        self.hosts_file = folder / "hosts"
        self.hosts_file.write_text(
            "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
        )
        try:
            ip("link", "add", self.bridge, "type", "bridge")
            ip("addr", "add", f"{SUBNET}.254/24", "dev", self.bridge)  # the test's own place in it
            ip("link", "set", self.bridge, "up")
            for name, address in addresses.items():
                self.hosts[name] = Host(self, name, address)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for host in self.hosts.values():
            host.kill()
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)
