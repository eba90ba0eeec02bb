"""Build a release: wheel, source archive, list of parts (SBOM) and hashes, checked.

    python .ci/release.py dist [--unreleased]

1. Version, changelog and CITATION.cff must agree, and the changelog must be dated.
2. The last commit, and nothing else, is built twice; both results must be equal byte for byte.
3. twine and check-wheel-contents look at them.
4. The wheel is installed alone into an empty environment: its parts and their licences are listed
   in sbom.json (CycloneDX), and `sharpmask --version` must answer.
5. SHA256SUMS holds the hashes of all files.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Build, check and list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--unreleased", action="store_true", help="The changelog has no date yet.")
    arguments = parser.parse_args()
    texts = [
        (ROOT / name).read_text()
        for name in ("src/sharpmask/defaults.py", "CHANGELOG.md", "CITATION.cff")
    ]
    if wrong := problems(*texts, unreleased=arguments.unreleased):
        sys.exit("\n".join(wrong))
    with tempfile.TemporaryDirectory() as folder:
        first, second = (build(Path(folder) / name) for name in ("first", "second"))
        if differing := differences(first, second):
            sys.exit(f"built twice, these differ: {', '.join(differing)}")
        arguments.output.mkdir(parents=True, exist_ok=True)
        for old in arguments.output.iterdir():
            old.unlink()
        for file in first.iterdir():
            (arguments.output / file.name).write_bytes(file.read_bytes())
    files = sorted(map(str, arguments.output.iterdir()))
    (wheel,) = arguments.output.glob("*.whl")
    run("-m", "twine", "check", "--strict", *files)
    run("-m", "check_wheel_contents", str(wheel))
    list_parts(wheel, arguments.output / "sbom.json")
    sums = [f"{digest(file)}  {file.name}" for file in sorted(arguments.output.iterdir())]
    (arguments.output / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    print("equal byte for byte in two builds:", *sums, sep="\n")


def problems(
    defaults: str, changelog: str, citation: str, *, unreleased: bool = False
) -> list[str]:
    """What keeps a version from being released."""
    found = re.search(r'^VERSION = "(\d+\.\d+\.\d+)"$', defaults, re.MULTILINE)
    if not found:
        return ["src/sharpmask/defaults.py: no VERSION of the form 1.2.3"]
    version = re.escape(found[1])
    wrong = []
    if not re.search(rf"^version: {version}$", citation, re.MULTILINE):
        wrong.append(f"CITATION.cff: write version: {found[1]}")
    dated = re.search(rf"^## \[{version}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    if not unreleased and not dated:
        wrong.append(f"CHANGELOG.md: no section ## [{found[1]}] - YEAR-MONTH-DAY")
    if not unreleased and f"v{found[1]}" not in changelog:
        wrong.append(f"CHANGELOG.md: name the tag, v{found[1]}")
    return wrong


def build(folder: Path) -> Path:
    """Build the last commit, at the time of that commit; gives the folder of the results."""
    folder.mkdir()
    archive, source, output = folder / "source.tar", folder / "source", folder / "dist"
    git("archive", "--output", str(archive), "HEAD")
    with tarfile.open(archive) as tar:
        tar.extractall(source, filter="data")
    epoch = git("log", "-1", "--format=%ct")
    run("-m", "build", "--outdir", str(output), str(source), SOURCE_DATE_EPOCH=epoch)
    return output


def differences(first: Path, second: Path) -> list[str]:
    """Names of files that are not the same in both folders."""
    names = {path.name for folder in (first, second) for path in folder.iterdir()}
    return sorted(
        name
        for name in names
        if not ((first / name).exists() and (second / name).exists())
        or digest(first / name) != digest(second / name)
    )


def list_parts(wheel: Path, output: Path) -> None:
    """What an installation of the wheel alone consists of, and under which licences."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
        subprocess.run([f"{folder}/bin/sharpmask", "--version"], check=True)
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "pip"], check=True)
        options = ["--output-reproducible", "--output-file", str(output)]
        run("-m", "cyclonedx_py", "environment", *options, python)


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run(*words: str, **environment: str) -> None:
    """Run a program of this Python's environment."""
    subprocess.run([sys.executable, *words], check=True, env=os.environ | environment)


def git(*words: str) -> str:
    """What git says."""
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
