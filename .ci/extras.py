"""Every extra alone: installed beside a bare oodline, its uses work, and it needs no other. Run by `make release`.

    build/release/bin/python .ci/extras.py dist/oodline-0.1.0-py3-none-any.whl [EXTRA ...]

Each gets an environment of its own under `build/extras`, removed again, which reads what the one that runs this holds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from bare import NEEDS

BARE = Path(__file__).with_name("bare.py")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def try_extra(wheel: Path, extra: str) -> str:
    """Install one and use it; what went wrong, or nothing."""
    folder = Path("build/extras") / extra
    venv.create(folder, with_pip=False, clear=True)
    python = folder / "bin/python"
    places = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.run([python, "-c", places], capture_output=True, text=True, check=True).stdout.strip())
    (own / "bare.pth").write_text(sysconfig.get_path("purelib"))
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for words in ([*install, f"oodline[{extra}] @ {wheel.resolve().as_uri()}"], [python, "-I", BARE, extra]):
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ | OFFLINE)
        if done.returncode:
            return f"{extra}: {(done.stderr or done.stdout).strip()[-2000:]}"
        print(done.stdout, end="", flush=True)
    shutil.rmtree(folder)
    return ""


def main(wheel: Path, extras: list[str]) -> None:
    """Try all of them, then say which failed."""
    failed = []
    for extra in extras or list(NEEDS):
        wrong = try_extra(wheel, extra)
        print(f"{extra}: {'FAILED' if wrong else 'works alone'}", flush=True)
        failed += [wrong] if wrong else []
    if failed:
        raise SystemExit("\n\n".join(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
