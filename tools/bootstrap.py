"""Run the project's Python, after making and installing its environment where that is needed.

    python tools/bootstrap.py -m dori_lite.cli book

An active virtual or conda environment is used as it is; otherwise `.venv` is made. What was installed is
remembered in the environment by a hash of pyproject.toml and constraints.txt. Standard library only, and in
a syntax that old Pythons can read, so that they get as far as saying that they are too old.
"""

import hashlib
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 11)
STAMP = "dori-lite-installed"
INSTALL = ["-m", "pip", "install", "-c", "constraints.txt", "-e", ".[book,dev]"]


def stop(message):
    sys.exit("dori-lite: " + message)


def environment(environ):
    """The folder of the environment, and whether it is an active one (otherwise it is our own .venv)."""
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if environ.get(name):
            return environ[name], True
    return os.path.join(ROOT, ".venv"), False


def python_of(folder):
    """The Python of an environment, or None where there is none."""
    places = ("Scripts/python.exe", "python.exe") if os.name == "nt" else ("bin/python",)
    found = [os.path.join(folder, place) for place in places if os.path.exists(os.path.join(folder, place))]
    return found[0] if found else None


def is_free(folder):
    """Whether an environment may be made in `folder`, which empties it: nothing is lost that we did not put there."""
    if not os.path.lexists(folder):
        return True
    if os.path.islink(folder) or not os.path.isdir(folder):
        return False
    foreign = "bin/python" if os.name == "nt" else "Scripts/python.exe"  # of another system that shares this folder
    if os.path.lexists(os.path.join(folder, foreign)):
        return False
    if os.path.exists(os.path.join(folder, STAMP)):
        return True  # ours, and its Python is gone, as after an upgrade
    names = [name for _, _, names in os.walk(folder) for name in names]
    return not names or names == ["pyvenv.cfg"]  # the second where venv was interrupted


def make(folder):
    """Make the environment; exits with one line where this Python cannot, or where `folder` holds something else."""
    if not is_free(folder):
        stop(
            "%s is in the way: it is no environment that works here, and making one would empty it; "
            "remove or rename it, or activate an environment" % folder
        )
    if sys.version_info[:2] < OLDEST:
        stop(
            "this is Python %d.%d and 3.11 or newer is needed: install one and name it, "
            "for example `make PYTHON=python3.12`" % tuple(sys.version_info[:2])
        )
    try:
        import ensurepip  # noqa: F401  (Debian leaves it out, and venv then fails half-way)
        import venv
    except ImportError as error:
        stop(
            "this Python cannot make an environment (%s): install its venv module, on Debian and Ubuntu "
            "`sudo apt install python3-venv`, or activate a conda environment" % error
        )
    print("Making the environment " + folder)
    try:
        venv.create(folder, clear=True, symlinks=os.name != "nt", with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        stop("the environment %s could not be made: %s" % (folder, error))


def fingerprint():
    digest = hashlib.sha256(ROOT.encode("utf-8"))
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def stamped(folder):
    try:
        with open(os.path.join(folder, STAMP)) as file:
            return file.read() == fingerprint()
    except (IOError, OSError):
        return False


def check_version(python, folder):
    """Exits with one line when the environment's Python is too old or does not start."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        version = subprocess.check_output([python, "-c", ask]).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        stop("the Python of the environment %s does not start: remove or deactivate it" % folder)
    if tuple(int(part) for part in version.split(".")) < OLDEST:
        stop(
            "the environment %s has Python %s and 3.11 or newer is needed: "
            "remove or deactivate it, or activate another" % (folder, version)
        )


def install(python, folder):
    """Install the package; the stamp is written last, so an interrupted installation is done again."""
    stamp = os.path.join(folder, STAMP)
    if os.path.exists(stamp):
        os.remove(stamp)
    with open(os.devnull, "w") as nowhere:
        pip = subprocess.call([python, "-m", "pip", "--version"], stdout=nowhere, stderr=nowhere) == 0
        if not pip and subprocess.call([python, "-m", "ensurepip"], stdout=nowhere, stderr=nowhere) != 0:
            stop("the environment %s has no pip: install pip in it" % folder)
    print("Installing into %s, once; it takes some minutes" % folder)
    sys.stdout.flush()
    wanted = fingerprint()
    if subprocess.call([python] + INSTALL, cwd=ROOT) != 0:
        stop("the installation did not finish (its reason is above): run the same command again")
    with open(stamp + ".partial", "w") as file:
        file.write(wanted)
    os.replace(stamp + ".partial", stamp)


def main(arguments, environ):
    folder, active = environment(environ)
    python = python_of(folder)
    if python is None:
        if active:
            stop("the active environment %s has no Python: deactivate it, or activate another" % folder)
        make(folder)
        python = python_of(folder)
    if not stamped(folder):
        check_version(python, folder)
        install(python, folder)
    if not arguments:
        return 0
    if os.name == "nt":  # there os.execv returns to the shell before the command has ended
        return subprocess.call([python] + arguments)
    os.execv(python, [python] + arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except KeyboardInterrupt:
        stop("interrupted")
