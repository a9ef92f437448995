"""A packed archive with which the GPU check runs on a machine without internet: `make gpu-kit`.

    python scripts/gpu_kit.py pack [--python-version 3.12] [--interpreter /path/to/python3.12] [--out build/gpu-kit.tar.xz]
    python3 scripts/gpu_kit.py run build/gpu-kit.tar.xz [--device cuda] [--minutes 8] [options of the check]

`pack` downloads the wheels of gpu-kit-packages.txt with pip and packs what is used of them, in about three minutes. `run`, in a
checkout on the machine with the GPU, needs only the standard library and the packages that the list names as present there. It
unpacks the archive, makes an environment for the check and one for the server, and runs the tests marked cuda and then the check.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "scripts/gpu-kit-packages.txt"
KIT = ROOT / "build/gpu-kit.tar.xz"
LIMIT_MIB = 60
OF_THE_SERVER = ("numpy", "nvidia-pytriton", "scipy")
MANYLINUX = ("2_17", "2014", "2_27", "2_28", "2_31", "2_34", "2_35")
# What is left out, as patterns of paths inside a wheel (* also matches /).
UNUSED = (
    *("*/tests/*", "*/test/*", "*.pyi", "*.h", "*.a", "*.c", "*.pxd", "*/__pycache__/*", "*.dist-info/RECORD"),
    *("nvidia_pytriton.libs/libpython3*", "numpy/f2py/*", "numpy/distutils/*", "sqlalchemy/testing/*"),
)
SCIPY = ("__init__.py", "__config__.py", "_distributor_init.py", "version.py")
SCIPY += tuple(f"{part}/*" for part in ("_lib", "constants", "linalg", "ndimage", "sparse", "spatial", "special"))
# Of these packages nothing else is used.
USED = {
    "scipy": ("scipy.libs/*", "scipy/_cyutility*", *(f"scipy/{part}" for part in SCIPY)),
    "nvidia-pytriton": ("nvidia_pytriton.libs/*", "pytriton/tritonserver/*"),
    "nilearn": ("nilearn/__init__.py", "nilearn/datasets/data/mni_icbm152_*"),
}
# Character tables of a library that the server is linked with but does not call.
UNREAD = "nvidia_pytriton.libs/libicudata*"
STUBS = "pytriton/tritonserver/python_backend_stubs/"
# Of an interpreter's standard library.
UNUSED_STDLIB = ("site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "config-*", "__pycache__")
TESTS_S = 150.0


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = parser.add_subparsers(required=True, dest="mode")
    packing = modes.add_parser("pack")
    packing.add_argument("--python-version", default="3.12")
    packing.add_argument("--interpreter", type=Path, help="pack this Python too, for a machine whose Python lacks libpython")
    packing.add_argument("--out", type=Path, default=KIT)
    running = modes.add_parser("run")
    running.add_argument("kit", type=Path, nargs="?", default=KIT)
    running.add_argument("--folder", type=Path, help="where to unpack; a temporary folder by default")
    running.add_argument("--device", default="cuda", help="cuda, or cpu to test the kit")
    running.add_argument("--minutes", type=float, default=8.0, help="for everything")
    running.add_argument("--base", type=Path, action="append", help="site-packages of torch and so on; this Python's by default")
    running.add_argument("--packed-interpreter", action="store_true", help="for the server, although this Python has libpython")
    arguments, options = parser.parse_known_args()
    if arguments.mode == "pack" and options:
        parser.error(f"unknown options: {' '.join(options)}")
    if arguments.mode == "pack":
        pack(arguments.python_version, arguments.interpreter, arguments.out)
    else:
        sys.exit(run(arguments, options))


def pack(version: str, interpreter: Path | None, out: Path) -> None:
    """Download, thin out and pack. Exits with 1 above LIMIT_MIB."""
    with tempfile.TemporaryDirectory() as name:
        wheels, trees = Path(name) / "wheels", Path(name) / "kit"
        platforms = [f"--platform=manylinux{'' if tag == '2014' else '_'}{tag}_x86_64" for tag in MANYLINUX]
        options = ["--no-deps", "--only-binary=:all:", f"--python-version={version}", "--implementation=cp", *platforms]
        command = [sys.executable, "-m", "pip", "download", "-q", *options, "-d", str(wheels), "-r", str(LIST)]
        subprocess.run(command, check=True)
        for wheel in sorted(wheels.iterdir()):
            package = wheel.name.split("-")[0].replace("_", "-").lower()
            unpack_wheel(wheel, package, version, trees / ("server" if package in OF_THE_SERVER else "library"))
        for file in (trees / "server").glob(UNREAD):
            blank(file)
        if interpreter:
            copy_interpreter(interpreter, version, trees / "python")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(out, "w:xz", preset=9) as archive:
            archive.add(trees, ".")
    size_mib = out.stat().st_size / 2**20
    print(f"{out}: {size_mib:.1f} MiB")
    if size_mib > LIMIT_MIB:
        sys.exit(f"{out}: expected at most {LIMIT_MIB} MiB, got {size_mib:.1f}; leave out more in scripts/gpu_kit.py")


def unpack_wheel(wheel: Path, package: str, version: str, folder: Path) -> None:
    """Unpack what is used of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.is_dir() or not is_used(entry.filename, package, version):
                continue
            file = Path(archive.extract(entry, folder))
            file.chmod(entry.external_attr >> 16 & 0o777 or 0o644)


def blank(file: Path) -> None:
    """Overwrite a shared library's constants with zeros, which pack to nothing."""
    sections = subprocess.run(["readelf", "-SW", file], check=True, capture_output=True, text=True).stdout
    found = re.search(r"\.rodata +PROGBITS +\w+ +(\w+) +(\w+)", sections)
    assert found
    start, size = (int(number, 16) for number in found.groups())
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(bytes(size))


def is_used(path: str, package: str, version: str) -> bool:
    """Whether a file of a package's wheel goes into the kit."""
    if any(fnmatch.fnmatch(path, pattern) for pattern in UNUSED) or (STUBS in path and f"{STUBS}{version}/" not in path):
        return False
    return package not in USED or any(fnmatch.fnmatch(path, pattern) for pattern in USED[package])


def copy_interpreter(interpreter: Path, version: str, folder: Path) -> None:
    """Copy a Python's shared library and standard library."""
    facts = "import sys, sysconfig as s; print(s.get_config_var('LIBDIR'), s.get_path('stdlib'), '%d.%d' % sys.version_info[:2])"
    printed = subprocess.run([interpreter, "-I", "-c", facts], check=True, capture_output=True, text=True).stdout
    library, stdlib, found = printed.split()
    file = Path(library) / libpython(version)
    if found != version or not file.is_file():
        sys.exit(f"{interpreter}: expected Python {version} with {libpython(version)}, got {found} or none; pass another")
    shutil.copytree(stdlib, folder / "lib" / f"python{version}", ignore=shutil.ignore_patterns(*UNUSED_STDLIB))
    copy = Path(shutil.copy(file, folder / "lib"))
    subprocess.run(["strip", "--strip-unneeded", copy, *(folder / "lib").rglob("lib-dynload/*.so")], check=True)
    (folder / "bin").mkdir()


def libpython(version: str) -> str:
    """The file that the server's stub is linked with."""
    return f"libpython{version}.so.1.0"


def run(arguments: argparse.Namespace, options: list[str]) -> int:
    """Unpack, make both environments, run the tests marked cuda and the check; the check's exit code, or that of the tests.

    options: further ones of the check.
    """
    deadline = time.monotonic() + 60 * arguments.minutes
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="gpu-kit-"))
    with tarfile.open(arguments.kit) as archive:
        archive.extractall(folder / "kit", filter="data")
    bases = arguments.base or [Path(p) for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    paths = [folder / "kit/library", ROOT, *bases]
    python = environment(folder / "check", paths) / "bin/python"
    server = environment(folder / "server", paths, folder / "kit/server")
    give_libpython(server, folder / "kit/python", arguments.packed_interpreter)
    # The server's Python writes no bytecode.
    compiled = [server / "lib", folder / "kit/library", folder / "kit/python", ROOT / "cmb_models"]
    subprocess.run([python, "-m", "compileall", "-q", "-j", "0", *(p for p in compiled if p.exists())])
    variables = os.environ | {"CMB_SERVER_ENV": str(server), "PYTHONUNBUFFERED": "1"}
    tests = [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/serving/test_cuda.py"]
    # With --device cpu their bodies run on the CPU, without one they are skipped.
    tests += ["-m", "cuda"] if arguments.device == "cuda" else ["-k", "cpu"]
    tested = call("tests", tests, variables, min(TESTS_S, deadline - time.monotonic()))
    minutes = max(0.5, (deadline - time.monotonic()) / 60)
    check = [python, "-m", "benchmarks.gpu_check", "--device", arguments.device, "--minutes", f"{minutes:.2f}", *options]
    return call("check", check, variables, 60 * minutes + 20) or tested


def environment(folder: Path, paths: list[Path], packages: Path | None = None) -> Path:
    """A virtual environment without pip that also looks for packages in `paths`, in this order. packages: its own."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    if packages:
        shutil.copytree(packages, site, dirs_exist_ok=True)
    (site / "gpu_kit.pth").write_text("".join(f"{path.resolve()}\n" for path in paths), encoding="utf-8")
    return folder


def give_libpython(server: Path, packed: Path, always: bool) -> None:
    """Have the server's Python steps run by the packed interpreter where this Python comes without libpython."""
    version = sysconfig.get_python_version()
    if not always and has_libpython(version):
        return
    if not packed.is_dir():
        print(f"no {libpython(version)} here and none in the kit: the server cannot run; pack it with --interpreter", flush=True)
        return
    site = server / "lib" / f"python{version}" / "site-packages"
    shutil.copy(packed / "lib" / libpython(version), site / "nvidia_pytriton.libs")
    config = server / "pyvenv.cfg"
    config.write_text(re.sub(r"(?m)^home = .*$", f"home = {packed.resolve() / 'bin'}", config.read_text()), encoding="utf-8")


def has_libpython(version: str) -> bool:
    """Whether the dynamic linker, or this Python's own folder, has libpython."""
    for name in (libpython(version), str(Path(sysconfig.get_config_var("LIBDIR") or "") / libpython(version))):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def call(name: str, command: list, variables: dict[str, str], limit_s: float) -> int:
    """Run a command in the checkout; its exit code, 124 if it was killed at its limit."""
    start = time.monotonic()
    try:
        code = subprocess.run(command, cwd=ROOT, env=variables, timeout=limit_s).returncode
    except subprocess.TimeoutExpired:
        code = 124
    print(f"{name}: exit code {code} after {time.monotonic() - start:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    main()
