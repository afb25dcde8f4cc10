"""A SLURM cluster on this machine, for tests: brought up and down as root, in a folder of its own.

It has one node, or two: each is a slurmd, with a name that leads to this machine and a port of its own. Ports, sockets,
key and configuration are the cluster's own, so that it meets no other SLURM of the machine. A node's two GPUs are there
for SLURM alone: device nodes that lead to nothing.
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun")
ACCOUNTING = ("slurmdbd", "mysqld", "mysql_install_db")
PATIENCE = 60

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
GresTypes=gpu
MaxArraySize={max_array}
KillWait=10
MinJobAge=300
SchedulerParameters=bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmctldParameters=preempt_send_user_signal
SlurmdTimeout=300
InactiveLimit=0
MpiDefault=none
SlurmdParameters=config_overrides
{accounting}
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=cheap Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0 PreemptMode=CANCEL
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 Gres=gpu:2 State=UNKNOWN"
DBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
DbdHost=localhost
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageUser=root
StorageLoc=slurm_acct_db
PidFile={root}/slurmdbd.pid
LogFile={root}/slurmdbd.log
"""


def missing(accounting=False):
    """Why no cluster can be brought up here, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a SLURM cluster needs Linux and root"
    wanted = PROGRAMS + (ACCOUNTING if accounting else ())
    absent = [name for name in wanted if shutil.which(name) is None]
    packages = "slurm-wlm munge" + (" slurmdbd mariadb-server" if accounting else "")
    return f"SLURM is not installed ({', '.join(absent)}): apt-get install {packages}" if absent else None


def free_ports(count):
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Cluster:
    """munged, slurmctld and slurmd, and with `accounting` slurmdbd on a MariaDB; `with` brings them up and down."""

    def __init__(self, root, accounting=False, max_array=1001, nodes=1):
        self.root, self.accounting = Path(root), accounting
        self.host = socket.gethostname().partition(".")[0]
        self.nodes = (self.host, "localhost")[:nodes]
        self.running = {}
        self.root.mkdir(parents=True, exist_ok=True)
        for name in ("state", "db", *(f"spool.{node}" for node in self.nodes)):
            (self.root / name).mkdir(exist_ok=True)
        controller, database, *daemons = free_ports(2 + nodes)
        for number in range(2):
            node = self.root / f"gpu{number}"
            if not node.exists():
                os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        gpus = [f"NodeName={node} Name=gpu File={self.root}/gpu[0-1]\n" for node in self.nodes]
        (self.root / "gres.conf").write_text("".join(gpus))
        (self.root / "cgroup.conf").write_text("CgroupAutomount=no\n")
        accounts = "AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none"
        if accounting:
            accounts = (
                "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=localhost\n"
                f"AccountingStoragePass={self.root}/munge.socket\n"
                f"AccountingStoragePort={database}\nAccountingStorageEnforce=limits,qos\n"
                "JobAcctGatherType=jobacct_gather/none"
            )
            path = self.root / "slurmdbd.conf"
            path.write_text(DBD_CONF.format(root=self.root, port=database))
            path.chmod(0o600)
        self.conf = self.root / "slurm.conf"
        self.conf.write_text(
            SLURM_CONF.format(
                host=self.host,
                root=self.root,
                controller=controller,
                nodes="\n".join(
                    NODE.format(node=node, host=self.host, port=port)
                    for node, port in zip(self.nodes, daemons, strict=True)
                ),
                max_array=max_array,
                accounting=accounts,
            )
        )

    @property
    def environment(self):
        """Variables with which SLURM's commands find this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def __enter__(self):
        try:
            self._start_munge()
            if self.accounting:
                self._start_accounting()
            self.start("slurmctld")
            self.wait_for(lambda: "UP" in self.try_call("scontrol", "ping"), "slurmctld")
            self.start("slurmd")
            self.wait_for(self.ready, "the nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if "slurmctld" in self.running:
            self.try_call("scancel", f"--user={os.getuid()}", "--signal=KILL", "--full")
            self.try_call("scancel", f"--user={os.getuid()}")
            try:
                self.wait_for(lambda: not self.try_call("squeue", "-h").strip(), "the jobs' end", 20)
            except AssertionError:
                pass
        for name in reversed(list(self.running)):
            self.kill(name, signal.SIGTERM)

    def _start_munge(self):
        key = self.root / "munge.key"
        subprocess.run(["mungekey", "--create", f"--keyfile={key}"], check=True)
        key.chmod(0o400)
        options = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munge.pid", "seed-file": "munge.seed"}
        paths = [f"--{option}={self.root / name}" for option, name in options.items()]
        self._spawn("munged", ["munged", "--foreground", "--force", *paths])
        self.wait_for((self.root / "munge.socket").exists, "munged")

    def _start_accounting(self):
        data, control = self.root / "db", self.root / "mysql.socket"
        subprocess.run(
            ["mysql_install_db", f"--datadir={data}", "--user=root", "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
        )
        self._spawn(
            "mysqld",
            ["mysqld", "--no-defaults", f"--datadir={data}", "--user=root", f"--socket={control}", "--skip-networking"],
        )
        self.wait_for(control.exists, "the database")
        with (self.root / "slurmdbd.conf").open("a") as file:
            file.write("StorageHost=localhost\n")
        self._spawn("slurmdbd", ["slurmdbd", "-D"], {"MYSQL_UNIX_PORT": str(control)})
        self.wait_for(lambda: "test" in self.try_call("sacctmgr", "-n", "-i", "add", "cluster", "test"), "slurmdbd")

    def start(self, name):
        """Start slurmctld, or the slurmd of every node, for the first time or after `kill`."""
        if name == "slurmctld":
            self._spawn(name, [name, "-D"])
            return
        for node in self.nodes:
            self._spawn(name if node == self.host else f"{name}.{node}", [name, "-D", "-N", node])

    def _spawn(self, name, command, more=()):
        log = (self.root / f"{name}.out").open("ab")
        self.running[name] = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment, **dict(more)},
            start_new_session=True,
        )
        log.close()

    def kill(self, name, number=signal.SIGKILL):
        """End one of the daemons (slurmd: that of the first node) and wait until it is gone."""
        process = self.running.pop(name)
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def ready(self):
        """Whether every node takes jobs."""
        states = self.try_call("sinfo", "-h", "-N", "-p", "low", "-o", "%T").split()
        return states == ["idle"] * len(self.nodes)

    def call(self, *command):
        """Output of one of SLURM's commands."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **self.environment}
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def try_call(self, *command):
        """The same, with "" where the command fails."""
        try:
            return self.call(*command)
        except (AssertionError, subprocess.TimeoutExpired):
            return ""

    def wait_for(self, condition, what, seconds=PATIENCE):
        """Ask again until it holds; AssertionError with the daemons' last words."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s for {what}\n{self.last_words()}")
            time.sleep(0.2)

    def last_words(self):
        """The ends of the daemons' logs."""
        ends = []
        for path in sorted([*self.root.glob("*.log"), *self.root.glob("*.out")]):
            ends.append(f"--- {path.name}\n" + path.read_text(errors="replace")[-1500:])
        return "\n".join(ends)


class commands_of:  # noqa: N801 - used as a function
    """Inside, SLURM's commands speak to this cluster."""

    def __init__(self, cluster):
        self.cluster, self.before = cluster, {}

    def __enter__(self):
        self.before = {name: os.environ.get(name) for name in self.cluster.environment}
        os.environ.update(self.cluster.environment)
        return self.cluster

    def __exit__(self, *_):
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
