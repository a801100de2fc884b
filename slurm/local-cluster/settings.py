"""Configuration files of a Slurm cluster whose nodes all live on this machine."""

import getpass
import os
import random
import secrets
import socket
from pathlib import Path

CRED_EXPIRE_S = 5
"""Seconds a requeued job waits before it starts again (Slurm's own default is 120)."""


def node_names(count: int) -> list[str]:
    return [f"node{number}" for number in range(1, count + 1)]


def choose_ports(names: list[str]) -> dict[str, int]:
    """A free TCP port for each name, below the range that the kernel hands out to clients."""
    ports: dict[str, int] = {}
    candidates = random.SystemRandom().sample(range(20000, 30000), 2000)
    for name in names:
        ports[name] = next(port for port in candidates if port not in ports.values() and _is_free(port))
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def local_address() -> tuple[str, str]:
    """The loopback address to use, and the ``CommunicationParameters`` that confine the daemons to it.

    Slurm can bind to the host name's address or to all addresses. Where the host name is not a loopback address (as in
    many containers) it must be all; strangers are then kept out by the munge key.
    """
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = ""
    if address.startswith("127."):
        return address, "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny\n"
    return "127.0.0.1", ""


def write(directory: Path, nodes: int, cpus: int, ports: dict[str, int]) -> None:
    """Write the munge key, ``slurm.conf``, ``slurmdbd.conf``, the database's first statements and the task prolog."""
    password = secrets.token_hex(16)
    for folder in ("state", *(f"spool-{name}" for name in node_names(nodes))):
        (directory / folder).mkdir()
    _private(directory / "munge.key", secrets.token_bytes(1024))
    statements = (
        f"CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';\n"
    )
    _private(directory / "init.sql", statements.encode())
    _private(directory / "slurmdbd.conf", _slurmdbd_conf(directory, password, ports).encode())
    (directory / "slurm.conf").write_text(_slurm_conf(directory, nodes, cpus, ports))
    prolog = directory / "task_prolog.sh"
    # Node names need no entry in /etc/hosts this way: Lightning and torch.distributed honour MASTER_ADDR.
    prolog.write_text("#!/bin/sh\necho export MASTER_ADDR=127.0.0.1\necho export GLOO_SOCKET_IFNAME=lo\n")
    prolog.chmod(0o755)


def _private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)


def _slurmdbd_conf(directory: Path, password: str, ports: dict[str, int]) -> str:
    address, confined = local_address()
    return f"""\
AuthType=auth/munge
AuthInfo=socket={directory}/munge.sock
{confined}DbdHost=localhost
DbdAddr={address}
DbdPort={ports["slurmdbd"]}
SlurmUser={getpass.getuser()}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports["mariadbd"]}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
PidFile={directory}/slurmdbd.pid
DebugLevelSyslog=quiet
"""


def _slurm_conf(directory: Path, nodes: int, cpus: int, ports: dict[str, int]) -> str:
    user = getpass.getuser()
    address, confined = local_address()
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    node_lines = "\n".join(
        f"NodeName={name} NodeHostname=localhost NodeAddr={address} Port={ports[name]} "
        f"CPUs={cpus} Sockets=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory_mb}"
        for name in node_names(nodes)
    )
    members = ",".join(node_names(nodes))
    return f"""\
ClusterName=local
SlurmctldHost=localhost({address})
SlurmctldPort={ports["slurmctld"]}
SlurmUser={user}
SlurmdUser={user}
{confined}AuthType=auth/munge
AuthInfo=socket={directory}/munge.sock,cred_expire={CRED_EXPIRE_S}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldSyslogDebug=quiet
SlurmdSyslogDebug=quiet
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
TaskProlog={directory}/task_prolog.sh
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
FirstJobId={random.SystemRandom().randrange(1000, 9000)}
JobRequeue=1
ReturnToService=2
SlurmdTimeout=60
SlurmctldTimeout=60
MessageTimeout=30
KillWait=60
MinJobAge=1800
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={address}
AccountingStoragePort={ports["slurmdbd"]}
AccountingStoragePass={directory}/munge.sock
AccountingStoreFlags=job_comment
AccountingStorageEnforce=associations,limits,qos
JobAcctGatherType=jobacct_gather/linux
{node_lines}
PartitionName=main Nodes={members} Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=preemptible Nodes={members} MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
"""
