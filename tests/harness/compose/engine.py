"""podman in the place of a Docker engine: a storage and a configuration of its own, in one folder.

It needs root, Debian's packages `podman buildah runc catatonit netavark aardvark-dns debootstrap`,
and `podman-compose` from the package index. No registry is asked: the image that the Dockerfile
begins from is made here, from Debian's packages, under the same name. Its Python is Debian's.

Everything lies below the folder that is given, and `end` removes what is not a file there: running
containers and what is mounted.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from harness.compose.pip_settings import places, read_settings, write_settings
from harness.compose.shell import Failed, run, try_to_run

PROGRAMS = {
    "podman": "podman",
    "buildah": "buildah",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
    "/usr/bin/catatonit": "catatonit",
}
"""Program → Debian's package."""
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
DEBOOTSTRAP_S, BUILD_S, COMMAND_S = 900, 1800, 180

RUNTIME = f"""\
#!{sys.executable} -I
# runc, but for limits of processes: raising them takes a capability that a container itself lacks.
import json, os, sys
words = sys.argv[1:]
if "--bundle" in words:  # to create a container
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
elif "--process" in words:  # to run another program in one
    path = words[words.index("--process") + 1]
else:
    path = None
if path is not None:
    with open(path) as file:
        given = json.load(file)
    given.get("process", given).pop("rlimits", None)
    with open(path, "w") as file:
        json.dump(given, file)
os.execvp("runc", ["runc", *words])
"""
CONTAINERS = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "bare"
init_path = "/usr/bin/catatonit"
[engine.runtimes]
bare = ["{runtime}"]
[network]
network_backend = "netavark"
network_config_dir = "{networks}"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{work}/storage"
runroot = "{work}/run"
"""


class Engine:
    """podman and podman-compose for one project folder. Raises Failed if a program is missing."""

    def __init__(self, work: Path, project: Path) -> None:
        missing = [package for name, package in PROGRAMS.items() if shutil.which(name) is None]
        if missing:
            raise Failed(f"missing programs: apt-get install {' '.join(missing)}")
        if shutil.which("podman-compose") is None:
            raise Failed("podman-compose is missing: pip install podman-compose")
        if os.geteuid() != 0:
            raise Failed("this needs root, in a machine that you can throw away")
        self.work, self.project = work, project
        self._configure()

    def _configure(self) -> None:
        for folder in ("networks", "storage", "run"):
            (self.work / folder).mkdir(exist_ok=True)
        runtime = self.work / "runtime"
        runtime.write_text(RUNTIME)
        runtime.chmod(0o755)
        (self.work / "containers.conf").write_text(
            CONTAINERS.format(runtime=runtime, networks=self.work / "networks")
        )
        (self.work / "storage.conf").write_text(STORAGE.format(work=self.work))
        # No name is ever looked for in a registry.
        (self.work / "registries.conf").write_text('short-name-mode = "disabled"\n')
        self.environment = {
            "CONTAINERS_CONF": str(self.work / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.work / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.work / "registries.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }

    def podman(self, *arguments: str, within_s: float = COMMAND_S) -> str:
        return run(["podman", *arguments], within_s, environment=self.environment)

    def try_podman(self, *arguments: str, within_s: float = COMMAND_S) -> tuple[int, str]:
        return try_to_run(["podman", *arguments], within_s, environment=self.environment)

    def as_docker(self, script: str, within_s: float = COMMAND_S) -> str:
        """Run lines of a shell in which `docker compose …` is podman-compose; what they print."""
        compose = shlex.join(["podman-compose", "--podman-build-args", self._build_arguments()])
        prelude = f'set -eu\ndocker() {{ shift; {compose} "$@"; }}\n'
        return run(
            ["sh", "-c", prelude + script], within_s, environment=self.environment, cwd=self.project
        )

    def _build_arguments(self) -> str:
        settings = read_settings()
        write_settings(settings, self.work / "pip.conf")
        mounts = {self.work / "pip.conf": Path("/etc/pip.conf")} | {p: p for p in places(settings)}
        volumes = [f"--volume={here}:{there}:ro" for here, there in mounts.items()]
        return shlex.join(["--pull=never", *volumes])

    def make_bases(self) -> list[str]:
        """Make the images that the Dockerfile begins from; their names."""
        text = (self.project / "Dockerfile").read_text()
        names = sorted(set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)))
        root = self.work / "base"
        if not (root / "usr" / "bin" / "python").exists():
            shutil.rmtree(root, ignore_errors=True)
            command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE]
            run([*command, str(root)], DEBOOTSTRAP_S)
        for name in names:
            made = f"docker.io/library/{name}"
            if self.try_podman("image", "exists", made)[0] != 0:
                script = (
                    "set -e; c=$(buildah from scratch); trap 'buildah rm $c' EXIT; "
                    f"buildah add -q $c {shlex.quote(str(root))} /; buildah commit -q $c {made}"
                )
                run(["sh", "-c", script], COMMAND_S, environment=self.environment)
        return names

    def end(self) -> None:
        """Remove all containers, volumes and networks of this engine, whatever their state."""
        # Twice: one on which others depend cannot be removed before them.
        self.try_podman("rm", "--all", "--force", "--time", "5")
        self.podman("rm", "--all", "--force", "--time", "5")
        self.podman("volume", "prune", "--force")
        self.podman("network", "prune", "--force")
        self.try_podman("image", "umount", "--all")
