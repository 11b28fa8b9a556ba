"""Downloads what benchmarks/accelerator needs, for a machine without network.

Run it under the same Python version, operating system and processor as that machine's; it writes
wheels, and builds those of packages that have none, so that nothing is compiled there.

    python benchmarks/collect_wheels.py --jax cuda12 --out DIR [--rejax] [--dry-run]

DIR gets bellmax and its requirements; DIR/rejax those of rejax, whose gymnax is older than
bellmax's, so that it needs an environment of its own.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from arguments import parse

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "brax,gymnax"  # of the presets that are measured
REJAX = ("rejax", "gymnax<1", "six")
KINDS = ("cpu", "cuda12", "cuda13", "tpu")


def jax_requirement(kind: str) -> str:
    """jax, with its own extra for a kind of device."""
    return "jax" if kind == "cpu" else f"jax[{kind}]"


def requirements(kind: str, *, rejax: bool) -> dict[str, list[str]]:
    """Return the requirements for each folder below DIR, as pip reads them."""
    jax = jax_requirement(kind)
    found = {"": [f"{ROOT}[{EXTRAS}]", jax]}
    return found | ({"rejax": [*REJAX, jax]} if rejax else {})


def collect(out: Path, kind: str, *, rejax: bool) -> list[list[str]]:
    """Return the commands that fill the folders, in order."""
    pip = [sys.executable, "-m", "pip", "wheel"]
    pins = ["--constraint", str(ROOT / "constraints.txt")]
    return [
        # Only bellmax keeps to the pinned versions; rejax needs an older gymnax.
        [*pip, "--wheel-dir", str(out / name), *([] if name else pins), *wanted]
        for name, wanted in requirements(kind, rejax=rejax).items()
    ]


def install(kind: str, *, rejax: bool) -> list[str]:
    """Return the commands for the other machine, where DIR is the folder `wheels`."""
    jax = jax_requirement(kind)
    pip = "pip install --no-index --find-links"
    lines = [f"{pip} wheels 'bellmax[{EXTRAS}]' '{jax}'"]
    if rejax:
        lines.append("python -m venv rejax")
        wanted = " ".join(shlex.quote(word) for word in (*REJAX, jax))
        lines.append(f"rejax/bin/{pip} wheels/rejax {wanted}")
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jax", choices=KINDS, default="cuda12", help="default: cuda12")
    parser.add_argument("--out", type=Path, default=Path("wheels"), help="folder of the wheels")
    parser.add_argument("--rejax", action="store_true", help="rejax too")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    given = parse(parser, arguments, dry_run=True)
    for command in collect(given.out, given.jax, rejax=given.rejax):
        print(shlex.join(command), flush=True)
        if not given.dry_run:
            subprocess.run(command, check=True)
    print("\nOn the machine without network, with the folder copied there as `wheels`:\n")
    print("\n".join(install(given.jax, rejax=given.rejax)))


if __name__ == "__main__":
    main()
