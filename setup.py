"""Builds the native core `ctcspeech._core` from csrc/. All metadata is in pyproject.toml.

    pip install .                      CPU, and CUDA where nvcc is found
    CTCSPEECH_CUDA=1 pip install .     CUDA asked for: an error where nvcc is missing
    CTCSPEECH_CUDA=0 pip install .     CPU only
    python setup.py build_ext --inplace      for development; recompiles only what changed

The instruction set of a source file is in its name: `*_avx2.cpp`, `*_avx512.cpp` are compiled with
those flags and only entered after a check at run time; everything else is baseline code.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"

X86 = platform.machine().lower() in ("x86_64", "amd64")
COMMON = ["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-pthread", "-g0"]
INSTRUCTION_SETS = {  # by the ending of the file's name
    "_avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"],
    "_avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma",
                "-mf16c", "-mbmi", "-mbmi2", "-mprefer-vector-width=512"],
}  # fmt: skip
# From Python 3.12 on one binary serves all later ones: the stable ABI (nanobind's own condition).
STABLE_ABI = sys.version_info >= (3, 12) and not sysconfig.get_config_var("Py_GIL_DISABLED")
CUDA_ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)  # those of them that nvcc knows
WITHOUT_CUDA = "set CTCSPEECH_CUDA=0 to build for the CPU only"


def native_sources() -> list[str]:
    sources = sorted(CSRC.rglob("*.cpp"))
    if not X86:
        sources = [p for p in sources if not p.stem.endswith(tuple(INSTRUCTION_SETS))]
    return [p.relative_to(ROOT).as_posix() for p in sources]


def nvcc_or_none() -> str | None:
    """The CUDA compiler to use. Whether this machine has a GPU plays no part."""
    wish = os.environ.get("CTCSPEECH_CUDA", "")
    if wish == "0":
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(home, "bin"))
    if wish == "1" and nvcc is None:
        sys.exit("CTCSPEECH_CUDA=1, but nvcc is not on PATH nor in $CUDA_HOME/bin")
    return nvcc


def cudart_folder(nvcc: str) -> Path:
    """Where the static CUDA runtime stands; nvcc may be a link or a script that starts another."""
    command = [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull]
    told = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    tops = [line.split("TOP=", 1)[1] for line in told if "TOP=" in line]
    for top in [*map(Path, tops), Path(nvcc).resolve().parent.parent]:
        for folder in (top / "lib64", top / "lib", *sorted(top.glob("targets/*/lib"))):
            if (folder / "libcudart_static.a").exists():
                return folder
    sys.exit(f"{nvcc} was found, but libcudart_static.a was not; {WITHOUT_CUDA}")


def cuda_architectures(nvcc: str) -> list[int]:
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
    known = {line.strip().removeprefix("compute_") for line in listed.splitlines()}
    chosen = [arch for arch in CUDA_ARCHITECTURES if str(arch) in known]
    if not chosen:
        sys.exit(f"{nvcc} compiles for none of sm_{CUDA_ARCHITECTURES}; {WITHOUT_CUDA}")
    return chosen


def is_stale(source: Path, target: Path) -> bool:
    """Whether the source, or what it included when last compiled, is newer than the target."""
    listing = target.with_suffix(".d")  # of the compiler's: "target.o: source header header"
    if not target.exists():
        return True
    if listing.exists():
        names = listing.read_text().replace("\\\n", " ").split(":", 1)[1]
        read = [Path(n.replace("\\ ", " ")) for n in re.split(r"(?<!\\)\s+", names.strip())]
    else:
        read = [*CSRC.rglob("*.h")]
    made = target.stat().st_mtime
    return any(not path.exists() or path.stat().st_mtime > made for path in (source, *read))


class BuildCore(build_ext):
    """Compiles each file with the flags its name asks for, several at a time, only if changed."""

    def build_extension(self, ext: Extension) -> None:
        import nanobind

        nb = self.nanobind = Path(nanobind.__file__).parent
        self.nanobind_source = nb / "src" / "nb_combined.cpp"
        self.include = [str(CSRC), str(nb / "include"), str(nb / "ext" / "robin_map" / "include")]
        self.include += [d for d in self.compiler.include_dirs if d not in self.include]
        self.include += ext.include_dirs
        temp = Path(self.build_temp)
        temp.mkdir(parents=True, exist_ok=True)
        cuda_sources = sorted(CSRC.rglob("*.cu"))
        nvcc = nvcc_or_none() if cuda_sources else None
        self.architectures = cuda_architectures(nvcc) if nvcc else []
        self.defines = []
        if nvcc:
            names = " ".join(map(str, self.architectures))
            self.defines = ["-DCTCSPEECH_CUDA=1", f'-DCTCSPEECH_CUDA_ARCHITECTURES="{names}"']
        if STABLE_ABI:
            self.defines += ["-DPy_LIMITED_API=0x030C0000"]
        stamp = temp / "flags.txt"  # a changed choice of CUDA recompiles everything
        flags = repr((self.defines, nvcc, nanobind.__version__))
        anew = not stamp.exists() or stamp.read_text() != flags

        jobs = [(self.nanobind_source, temp / "nanobind.o")]
        if nvcc:  # first, as what takes longest
            jobs = [(s, temp / (s.stem + ".cu.o")) for s in cuda_sources] + jobs
        jobs += [(Path(s), temp / (s.replace("/", "-") + ".o")) for s in ext.sources]
        stale = [job for job in jobs if anew or is_stale(*job)]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for _ in pool.map(lambda job: self.compile_one(nvcc, *job), stale):
                pass
        stamp.write_text(flags)

        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        link = ["-pthread"]
        if sys.platform == "darwin":
            link += ["-undefined", "dynamic_lookup", "-Wl,-exported_symbol,_PyInit__core"]
        else:
            shown = CSRC / "bindings" / "exports.map"
            link += ["-Wl,--gc-sections", "-s", f"-Wl,--version-script={shown}"]
        libraries, library_dirs = [], []
        if nvcc:
            library_dirs = [str(cudart_folder(nvcc))]
            libraries += ["cudart_static", "dl", "rt"]
        self.compiler.link_shared_object(
            [str(target) for _, target in jobs],
            str(output),
            libraries=libraries,
            library_dirs=library_dirs,
            extra_postargs=link,
            target_lang="c++",
        )

    def compile_one(self, nvcc: str | None, source: Path, target: Path) -> None:
        include = [f"-I{d}" for d in self.include]
        if source.suffix == ".cu":
            assert nvcc is not None
            command = [nvcc, "-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
            for arch in self.architectures:
                command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
            last = self.architectures[-1]
            command += ["-gencode", f"arch=compute_{last},code=compute_{last}"]
            command += ["-cudart", "static", "--threads", "0"]
            told = subprocess.run([nvcc, "--help"], capture_output=True, text=True).stdout
            if "--compress-mode" in told:  # since CUDA 12.8: a sixth of the size
                command += ["--compress-mode=size"]
        else:
            compiler = os.environ.get("CXX") or self.compiler.compiler_cxx[0]
            command = [*compiler.split(), *COMMON, "-fPIC", "-ffunction-sections"]
            # no folder of this build in what it makes: the same bytes from any
            for number, folder in enumerate((ROOT, self.nanobind, *self.include)):
                command += [f"-ffile-prefix-map={folder}=/{number}"]
            for ending, flags in INSTRUCTION_SETS.items():
                if source.stem.endswith(ending):
                    command += flags
            if source == self.nanobind_source:
                command += ["-fno-strict-aliasing", "-DNB_COMPACT_ASSERTIONS"]
            elif os.environ.get("CTCSPEECH_WERROR"):
                command += ["-Wall", "-Wextra", "-Werror"]
        command += ["-MMD", "-MF", str(target.with_suffix(".d"))]  # what it includes, for is_stale
        command += [*self.defines, *include, "-c", str(source), "-o", str(target)]
        print(" ".join(command), flush=True)
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            sys.exit(f"the C++ compiler {command[0]!r} was not found: install one or set CXX")
        except subprocess.CalledProcessError as error:
            target.unlink(missing_ok=True)
            hint = f"; {WITHOUT_CUDA}" if source.suffix == ".cu" else ""
            sys.exit(f"compiling {source} failed with exit code {error.returncode}{hint}")


setup(
    ext_modules=[
        Extension("ctcspeech._core", native_sources(), language="c++", py_limited_api=STABLE_ABI)
    ],
    cmdclass={"build_ext": BuildCore},
    options={"bdist_wheel": {"py_limited_api": "cp312"}} if STABLE_ABI else {},
)
