"""Another processor, as far as this one can play it: `python tests/processors.py COMMAND ...` runs a command on it.

Every library that chooses code by what the processor can do is told that it can do little: torch, MKL, oneDNN, NumPy,
both OpenBLAS, the C library (whose exp and log have other last bits without fused products), libjpeg-turbo and Arrow.
"""

import os
import platform
import subprocess
import sys

BLAS = {"x86_64": "Nehalem", "AMD64": "Nehalem", "aarch64": "ARMV8"}
"""What OpenBLAS takes the processor for: the plainest that it has code for."""
PROBE = """
import numpy, scipy.linalg, threadpoolctl, torch
found = {torch.backends.cpu.get_cpu_capability()}
found |= {pool["architecture"] for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"}
print(*sorted(found))
"""


def plain() -> dict[str, str]:
    """The variables of the environment that turn vector extensions off, for a fresh process."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    blas = {"OPENBLAS_CORETYPE": BLAS[platform.machine()]} if platform.machine() in BLAS else {}
    return {
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name)),
        "MKL_CBWR": "COMPATIBLE",  # on processors of other makers MKL does not listen to the next one
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-FMA,-FMA4,-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ",
        "JSIMD_FORCENONE": "1",
        "ARROW_USER_SIMD_LEVEL": "NONE",
        **blas,
    }


def main(command: list[str]) -> int:
    """Code of the command; 1 where this machine cannot play another."""
    variables = plain()
    there = {**os.environ, **variables}
    probe = [sys.executable, "-c", PROBE]
    found = subprocess.run(probe, env=there, check=True, capture_output=True, text=True).stdout.split()
    wanted = sorted({"DEFAULT", variables.get("OPENBLAS_CORETYPE", "DEFAULT")})
    if found != wanted:
        print(f"processors: libraries must compute as {', '.join(wanted)}, and are {', '.join(found)}", file=sys.stderr)
        return 1
    return subprocess.run(command, env=there).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
