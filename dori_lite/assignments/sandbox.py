"""A student's answer in a process of its own, with limits: arrays go in, arrays come back, whatever it does.

    outcome = run("dori_lite.assignments.a1", source, {"magnitude": {"with_text": noise}}, limits=Limits(seconds=60))
    outcome.returned["magnitude"], outcome.reasons.get("magnitude", "")

Threat model: careless or mildly dishonest students, not attackers. Endless loops, too much memory, too many processes
or a crash end the child and are a reason; a look at the solutions, the key or other people's files, the network, and
writing outside a folder of its own are refused by a hook within Python (see `guard`), and told. Hidden seeds and
judging stay in the grader, so that there is little to steal; but the child runs as the same user, and machine code, or
who takes the hook apart, gets around it. Against those, grade in a virtual machine that is thrown away.

Where `unshare` (util-linux, on Linux) may make namespaces, the child has no network and no processes but its own, which
end with it. Elsewhere `run` refuses, unless told to do without: then the limits and the hook are all there is.
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil

from ..ranges import check_count, check_positive
from .exchange import READY, collect, joined, short, size, write_task

POLL = 0.05  # seconds between two looks at the child
START = 300  # seconds in which Python and the assignment's module must be loaded
MARK = "DORI_LITE_CHILD"  # in the environment of the child, and of all that it starts
OWN = "--pid --fork --kill-child"
WAYS = {  # of starting the child, the best first: what it then has, and the options of `unshare`
    f"--net {OWN} --mount-proc": "no network, own processes",
    f"--net {OWN}": "no network, own processes",
    "--net": "no network",
}
PASSED = ("LD_LIBRARY_PATH", "DORI_DATA", "SYSTEMROOT")  # all that the child gets of our environment
BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2])\nfrom dori_lite.assignments.child import main\nmain()"
)


@dataclass(frozen=True)
class Limits:
    """What an answer may take: `seconds` for each part, GB of `memory`, `processes`, MB on `disk` and `returned`."""

    seconds: float = 300
    memory: float = 3
    processes: int = 32
    disk: float = 500
    returned: float = 200

    def __post_init__(self):
        check_count("processes", self.processes)
        for name in ("seconds", "memory", "disk", "returned"):
            check_positive(name, getattr(self, name))


@dataclass
class Outcome:
    """What came back, {part: {name: array}}; a `reason` that concerns all, and `reasons` of single parts."""

    returned: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    reason: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    isolation: str = ""


@functools.cache
def way() -> tuple[str, ...]:
    """The command before the child's, the best that works here; () where none does."""
    if not sys.platform.startswith("linux") or not shutil.which("unshare"):
        return ()
    die = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()  # the child does not outlive the grader
    for options in WAYS:
        for user in ((), ("unshare", "--user", "--map-root-user")):  # a new user takes the signal of `die` away
            command = (*user, *die, "unshare", *options.split())
            with suppress(OSError, subprocess.SubprocessError):
                if not subprocess.run([*command, "true"], capture_output=True, timeout=10).returncode:
                    return command
    return ()


def isolation() -> str:
    """What the system permits here: "no network, own processes", "no network", or ""."""
    options = " ".join(word for word in way() if word in " ".join(WAYS).split())
    return WAYS.get(options, "")


def check_isolation() -> str:
    """What `isolation` says. Raises RuntimeError, in one line, where there is none."""
    if there := isolation():
        return there
    raise RuntimeError(
        "nothing isolates answers here (`unshare --net` is not permitted); grade on Linux, or give --no-sandbox"
    )


def run(module: str, source: str, given: Mapping, names=None, limits=None, sandbox: bool = True) -> Outcome:
    """Run the functions of `source` on what is `given`, {part: {name: array}}, as `call` of the part in `module` says.

    `names` are values that the source finds beside its own, such as {"ask": …}. If a part ends the child, those after
    it are run in another. Raises RuntimeError, in one line, where there is no isolation and `sandbox` asks for it.
    """
    limits = limits or Limits()
    outcome = Outcome(isolation=check_isolation() if sandbox else "none")
    task = {"module": module, "source": source, "names": dict(names or {}), "limits": asdict(limits)}
    todo = list(given)
    while todo:
        with tempfile.TemporaryDirectory(prefix="dori-lite-", ignore_cleanup_errors=True) as name:
            folder = Path(name).resolve()
            write_task(folder, task, {part: given[part] for part in todo})
            ended = watch(folder, command(folder, sandbox), limits) or "ended before it had finished"
            if not (folder / "answers" / READY).exists():  # our own trouble, and no grade
                raise RuntimeError(f"answers cannot be run here: the child process {ended}")
            begun, done = collect(folder, todo, limits.returned, outcome)
        if done == len(todo):
            break
        if begun == done:  # it ended between parts, or before the first
            outcome.reason = joined(outcome.reason, ended)
            break
        outcome.reasons[todo[done]] = joined(outcome.reasons.get(todo[done], ""), ended)
        todo = todo[begun:]
    return outcome


def command(folder: Path, sandbox: bool) -> list[str]:
    """The child's command: this Python, which finds the modules that this process finds, and those alone."""
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
    paths = [os.path.abspath(path) if os.path.exists(path) else path for path in paths]
    python = [sys.executable, "-s", "-P", "-c", BOOTSTRAP, str(folder), json.dumps([*dict.fromkeys(paths)])]
    return [*(way() if sandbox else ()), *python]


def environment(folder: Path) -> dict[str, str]:
    """A clean one, in which the same code gives the same numbers: one thread, no GPU, no hub."""
    work = str(folder / "work")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    homes = dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP", "MPLCONFIGDIR", "XDG_CACHE_HOME"), work)
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    if "DORI_DATA" in passed:
        passed["DORI_DATA"] = os.path.abspath(passed["DORI_DATA"])
    hub = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
    python = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    return {"PATH": os.defpath, **passed, **threads, **homes, **hub, **python, MARK: folder.name}


def watch(folder: Path, command: list[str], limits: Limits) -> str:
    """Run the child until it ends, or must; nothing of it is left. How it came to an end, "" for a good one."""
    with open(folder / "stderr", "wb") as printed:
        child = subprocess.Popen(
            command,
            cwd=folder / "work",
            env=environment(folder),
            stdin=subprocess.PIPE,  # closed when the grader ends, whatever ends it: `child.die_with_grader`
            stdout=subprocess.DEVNULL,  # what an answer prints is nobody's business
            stderr=printed,
            start_new_session=True,
        )
    seen: dict[int, psutil.Process] = {}
    begun, since, reason = 0, time.monotonic(), ""
    try:
        while not reason:
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL)
                break
            if (now_begun := len(list((folder / "answers").glob("*.begun")))) > begun:
                begun, since = now_begun, time.monotonic()
            seen |= {process.pid: process for process in family(child)}
            seconds = time.monotonic() - since - (0 if begun else max(0, START - limits.seconds))
            reason = exceeded(limits, seconds, seen.values(), folder)
    finally:
        end(child, seen, folder.name)
        child.stdin.close()
    return reason or ending(child.returncode, folder / "stderr")


def family(child: subprocess.Popen) -> list[psutil.Process]:
    """The child and all below it; nothing once it has ended, when its number may be another's."""
    with suppress(psutil.Error):
        if child.returncode is None:
            root = psutil.Process(child.pid)
            return [root, *root.children(recursive=True)]
    return []


def exceeded(limits: Limits, seconds: float, processes, folder: Path) -> str:
    """Which limit is passed, in words; "" for none."""
    count = memory = 0
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE and process.name() != "unshare":
                count, memory = count + 1, memory + process.memory_info().rss
    if seconds > limits.seconds:
        return f"took longer than {limits.seconds:g} s"
    if memory > limits.memory * 1e9:
        return f"took more than {limits.memory:g} GB of memory"
    if count > limits.processes:
        return f"started more than {limits.processes} processes"
    return f"wrote more than {limits.disk:g} MB" if size(folder) > limits.disk * 1e6 else ""


def end(child: subprocess.Popen, seen: dict[int, psutil.Process], mark: str) -> None:
    """Kill the child and all that it started, until none is left: its group, its family, and whoever bears the mark."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if hasattr(os, "killpg"):
            with suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
        seen |= {process.pid: process for process in family(child) + marked(mark)}
        alive = []
        for process in seen.values():
            with suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
                    alive.append(process)
        with suppress(subprocess.TimeoutExpired):
            child.wait(POLL)
            if not alive:
                return


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def ending(code: int, stderr: Path) -> str:
    """A process's exit code, in words."""
    if not code:
        return ""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"crashed ({name})"
    with open(stderr, "rb") as file:
        file.seek(max(0, stderr.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").split("\n")
    last = [line for line in lines if line.strip()][-1:]
    return f"ended with exit code {code}" + "".join(f": {short(line)}" for line in last)
