"""Models as OpenVINO compiled them, kept in the user's cache: compiling takes most of a start."""

from collections.abc import Mapping
from contextlib import suppress
from os import utime
from pathlib import Path
from typing import Any

from sharpmask.files import cache_folder, fingerprint, prune, replacing_file

MAX_BYTES = 500_000_000
"""What the cache of compiled models may hold; the least recently used go first."""
SEAL_BYTES = 32
"""The fingerprint of what follows it begins each file."""


def compiled_by(core: Any, path: Path, settings: Mapping[str, Any]) -> Any:
    """A network compiled for this processor, from the cache if it was compiled before.

    It is kept by what it depends on. Several processes may compile it at the same time; each sees
    a whole file or none. One that is damaged is made again.

    Args:
        core: OpenVINO's.
        path: An .xml, beside which lies its .bin, or an ONNX file.
        settings: OpenVINO's own.
    """
    file = cache_folder() / "compiled" / _key(core, path, settings)
    with suppress(OSError, RuntimeError):  # RuntimeError: OpenVINO cannot read it
        utime(file)  # before it is read, so that nobody prunes it meanwhile
        content = file.read_bytes()
        seal, compiled = content[:SEAL_BYTES], content[SEAL_BYTES:]
        if seal == fingerprint(compiled).encode():
            return core.import_model(compiled, "CPU", settings)
    network = core.compile_model(path, "CPU", settings)
    with suppress(OSError):  # no room or no right: the next start takes as long
        compiled = network.export_model().getvalue()
        with replacing_file(file) as output:
            output.write(fingerprint(compiled).encode() + compiled)
        prune(file.parent, MAX_BYTES)
    return network


def _key(core: Any, path: Path, settings: Mapping[str, Any]) -> str:
    """A fingerprint of all that a compiled network depends on."""
    import openvino

    told = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    processor = [core.get_property("CPU", name) for name in told]
    weights = path.with_suffix(".bin")
    files = [path, weights] if weights.is_file() else [path]
    others = openvino.get_version(), *processor, *sorted(settings.items())
    return fingerprint(*files, repr(others).encode())
