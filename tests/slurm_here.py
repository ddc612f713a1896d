"""A Slurm of one node for tests: slurm-wlm and munge of Debian, no systemd, no accounting."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "scontrol", "scancel")

CONFIG = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmUser={user}
SlurmdUser={user}
ReturnToService=2
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def where(name: str) -> str | None:
    """Path of a daemon or command; Debian keeps daemons in /usr/sbin."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def missing() -> list[str]:
    """Commands that are not on this machine."""
    return [name for name in NEEDED if where(name) is None]


class SlurmHere:
    """Its daemons; commands find it by ``SLURM_CONF``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "slurm.conf"
        self.environment = {**os.environ, "SLURM_CONF": str(self.config)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)  # munged refuses a socket that others cannot reach
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        text = CONFIG.format(
            host=socket.gethostname().partition(".")[0],
            controller=_free_port(),
            node=_free_port(),
            folder=self.folder,
            user=getpass.getuser(),
            cpus=max(2, os.cpu_count() or 1),
        )
        self.config.write_text(text)
        named = [f"--{k}={self.folder}/munge.{k.split('-')[0]}" for k in ("socket", "key-file")]
        files = [f"--{k}-file={self.folder}/munge.{k}" for k in ("pid", "log", "seed")]
        self._run("munged", "--foreground", "--force", *named, *files)
        _wait((self.folder / "munge.socket").exists)
        self._run("slurmctld", "-D", "-f", str(self.config))
        self.start_node()

    def start_node(self) -> None:
        """Start slurmd and wait until the controller knows that this one is there."""
        before = self._started()
        self._run("slurmd", "-D", "-f", str(self.config))
        _wait(lambda: self._started() != before)
        _wait(lambda: self.ask("sinfo", "-h", "-t", "idle,mix,alloc", "-o", "%n").strip() != "")

    def _started(self) -> str:
        """When the node's slurmd started, as the controller knows it; "" for never."""
        found = re.search(r"SlurmdStartTime=(\d\S*)", self.ask("scontrol", "show", "node"))
        return found[1] if found else ""

    def kill_node(self) -> None:
        """kill -9 of slurmd: what it has started lives on."""
        self._daemons["slurmd"].send_signal(signal.SIGKILL)
        self._daemons.pop("slurmd").wait()

    def ask(self, *command: str) -> str:
        """Output of a Slurm command, "" where it fails."""
        run = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return run.stdout if run.returncode == 0 else ""

    def stop(self) -> None:
        self.ask("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full")
        self.ask("scancel", "--user", getpass.getuser())
        _wait(lambda: not self.ask("squeue", "--noheader").strip())
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            daemon.wait(timeout=30)

    def _run(self, name: str, *arguments: str) -> None:
        path = where(name)
        assert path is not None
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                [path, *arguments], env=self.environment, stdout=out, stderr=out
            )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait(there: object, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not there():  # type: ignore[operator]
        assert time.monotonic() < deadline, "Slurm did not start: see its logs"
        time.sleep(0.2)
