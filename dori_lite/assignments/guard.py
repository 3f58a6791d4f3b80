"""Refuses what is no answer's business, within the child process: other files, the network, other processes.

    hide("dori_lite.assignments.a1")
    trusted, at = guard(folder)
    open("/home/ada/key.json")  # PermissionError: tried to open …/key.json, which is not the answer's business

It is a hook for Python's own audit events, and no prison: `sandbox` says against whom it stands.
"""

import linecache  # noqa: F401  (loaded before the hook is there)
import os
import site
import sys
import sysconfig
import threading
import types
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from ..assets import data_folder
from .exchange import short

PACKAGE = Path(__file__).resolve().parent.parent
SHOWN = ("NAME", "TITLE", "PRACTICE", "CHOICES")  # what a student's code may use of an assignment, beside its `OPEN`
OPEN_TO_ALL = (  # beside Python itself, the package and its data
    *("/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share", "/lib", "/lib64", "/opt/lib", "/System", "/Library"),
    *("/etc/fonts", "/etc/localtime", "/etc/ssl", "/etc/os-release", "/etc/mime.types", "/etc/ld.so.cache"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system", "/sys/fs/cgroup"),
    *("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero"),
)
SYSTEM = ("/etc", "/proc", "/sys", "/dev", "/usr", "/lib", "/opt", "/var", "/bin", "/sbin", "/run")
PROCESS, NETWORK = "tried to start another process", "tried to use the network"
LIBRARY, KILL = "tried to load a library of its own (ctypes)", "tried to stop a process"
ACTS = {  # audit events that are refused outright
    **dict.fromkeys(("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"), PROCESS),
    **dict.fromkeys(("os.spawn", "pty.spawn", "os.startfile"), PROCESS),
    **dict.fromkeys((f"socket.{act}" for act in ("__new__", "connect", "bind", "getaddrinfo", "sendto")), NETWORK),
    **dict.fromkeys(("socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"), NETWORK),
    **dict.fromkeys(("os.kill", "os.killpg"), KILL),
}
LOADING = {"ctypes.dlopen": LIBRARY}  # libraries do so as well, and may
CHANGES = {"os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.chmod": 1, "os.chown": 1, "os.link": 2}
CHANGES |= {"os.symlink": 2, "os.truncate": 1, "os.utime": 1, "os.setxattr": 1, "shutil.rmtree": 1}  # paths among args
CLOSED = "dori_lite.closed"  # an event of our own: a stand-in was asked for what is the grader's
LISTS = ("os.listdir", "os.scandir", "os.chdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def hide(hidden: str) -> None:
    """Put stand-ins in the place of the assignments' modules, which hold references: they show what a student needs."""
    package = hidden.rpartition(".")[0]
    kept = {f"{__package__}.{each}" for each in ("child", "exchange", "guard", "parts", "submission")}
    for each, module in list(sys.modules.items()):
        if each == hidden or (package and each.startswith(f"{package}.") and each not in kept):
            sys.modules[each] = stand_in = types.ModuleType(each)
            shown = (*SHOWN, *getattr(module, "OPEN", ()))
            stand_in.__dict__.update({name: getattr(module, name) for name in shown if hasattr(module, name)})
            stand_in.check = stand_in.asked = lambda *args, **options: None
            stand_in.__getattr__ = closed(each.rpartition(".")[2])
            if package:
                setattr(sys.modules[package], each.rpartition(".")[2], stand_in)


def closed(name: str) -> Callable:
    def refuse(attribute: str):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        sys.audit(CLOSED, f"tried to use {name}.{attribute}, which is the grader's")
        raise AttributeError(attribute)

    return refuse


def guard(folder: Path) -> tuple[Callable, Callable]:
    """Install the hook. Gives a context in which the grader's own code writes, and `at(place)`, which part is next.

    What a student's code does against it is written down, to the file `forbidden`, even if the code goes on.
    """
    notes = os.open(folder / "answers" / "forbidden", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    work, assignments = str(folder / "work"), str(PACKAGE / "assignments")
    pythons = [sys.prefix, sys.base_prefix, sys.exec_prefix, site.getusersitepackages()]
    pythons += [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    libraries = roots(*(path for path in pythons if len(Path(path).parts) > 1), str(PACKAGE))
    readable = roots(work, str(data_folder()), f"/proc/{os.getpid()}", *OPEN_TO_ALL) + libraries
    listed = {os.path.realpath(path) for path in sys.path}
    standard = roots(sysconfig.get_path("stdlib"), os.path.dirname(os.__file__))
    place, mine = -1, threading.local()

    @contextmanager
    def trusted():
        mine.now = True
        yield
        mine.now = False

    def at(now: int) -> None:
        nonlocal place
        place = now

    def callers() -> tuple[str, bool, str]:
        """Whose code acts: "student", "library" or "package"; whether a student's is behind it; what lies between."""
        who, between, frame = "", "", sys._getframe()
        while frame and frame.f_code.co_filename == __file__:  # the hook itself
            frame = frame.f_back
        while frame:
            file = frame.f_code.co_filename
            library = "site-packages" in file or "dist-packages" in file
            if file.startswith("<frozen") or (file.startswith(standard) and not library):
                between += "" if who else os.path.basename(file)
            elif file.startswith(libraries):
                who = who or ("package" if file.startswith(str(PACKAGE)) else "library")
            else:
                return who or "student", True, between
            frame = frame.f_back
        return who or "student", not who, between

    def refuse(text: str, told: bool) -> None:
        if told:
            os.write(notes, f"{place}\t{short(text)}\n".encode())
        raise PermissionError(text)

    def look(path, writes: bool, lists: bool = False) -> None:
        if isinstance(path, int):
            return
        real = os.path.realpath(os.fsdecode(path or "."))
        if within(real, work) or (writes and real == "/dev/null"):
            return
        who, student, between = callers()
        hidden = within(real, assignments) and not (lists or who == "package")
        if not writes and not hidden and (real.startswith(readable) or real + "/" in readable):
            return
        about = os.path.dirname(real)  # what an installed package says about itself, beside its code
        if about.endswith((".egg-info", ".dist-info")) and os.path.dirname(about) in listed and not writes:
            return
        if not writes and (real in listed or not os.path.lexists(real)):
            return
        silent = "linecache" in between and "inspect" not in between  # a traceback's lines
        told = student and not silent and (who == "student" or not real.startswith(roots(*SYSTEM)))
        if writes:
            refuse(f"tried to write …/{os.path.basename(real)}, outside its own folder", told)
        refuse(f"tried to open …/{os.path.basename(real)}, which is not the answer's business", told)

    def hook(event: str, args: tuple) -> None:
        if getattr(mine, "now", False):
            return
        if event == "open":
            path, mode, flags = args
            look(path, bool((flags or 0) & WRITING) or (isinstance(mode, str) and bool(set(mode) & set("wax+"))))
        elif event in LISTS:
            look(args[0], False, lists=True)
        elif event in CHANGES:
            for path in args[: CHANGES[event]]:
                look(path, True)
        elif event in ACTS or event in LOADING:
            who = callers()[0]
            if event in ACTS or who == "student":
                refuse(ACTS.get(event) or LOADING[event], who == "student")
        elif event == CLOSED:
            refuse(args[0], callers()[0] == "student")

    sys.addaudithook(hook)
    return trusted, at


def roots(*paths) -> tuple[str, ...]:
    """Folders as prefixes of what is in them, as they are named and as they really are."""
    return tuple({f"{each.rstrip('/')}/" for path in paths for each in (str(path), os.path.realpath(path))})


def within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
