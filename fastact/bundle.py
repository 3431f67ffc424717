"""Kernels that were compiled ahead, in a folder: a process finds them there without Triton and without compiling.

A file for each target, `sm_90.bin` say, holds cubins one after another, each compressed by zlib. `index.json` says what
the bundle was made from and where each kernel lies. `python -m fastact warmup --bundle DIR` writes one.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

FORMAT = 1
_INDEX = "index.json"
_PACKAGE = Path(__file__).parent
_FOR_ONE_CHIP = 90
"""From this capability on Triton compiles for one chip alone (sm_90a). Before, a chip also runs what was compiled for a
smaller capability of the same major version."""


class Kernel(NamedTuple):
    """What the driver loads, and what a launch has to know of it."""

    code: bytes
    """A cubin."""
    symbol: str
    warps: int
    shared: int
    """Bytes of dynamic shared memory."""
    block: int
    """Elements of a program."""
    tile_rows: int = 1


class Refused(RuntimeError):
    """Why a bundle, or what it has under a name, is not used. The text goes on after "since"."""


class _Entry(NamedTuple):
    """A kernel in the index: the fields of `Kernel`, and where its code lies."""

    symbol: str
    warps: int
    shared: int
    block: int
    tile_rows: int
    offset: int
    size: int
    sha256: str

    def digest(self, name: str, packed: bytes) -> str:
        """Of the code and of all that is said of it."""
        return sha256(json.dumps([name, *self[:5]]).encode() + packed).hexdigest()


_TYPES = get_type_hints(_Entry)


class _Target(NamedTuple):
    """A file of kernels."""

    size: int
    kernels: dict[str, _Entry]

    @classmethod
    def read(cls, target: dict[str, Any]) -> _Target:
        """From the index. Raises TypeError or ValueError for what cannot be."""
        found = cls(target["size"], {name: _Entry(**entry) for name, entry in target["kernels"].items()})
        for entry in found.kernels.values():
            if any(type(value) is not _TYPES[field] for field, value in entry._asdict().items()):
                raise TypeError
            if not 0 <= entry.offset < entry.offset + entry.size <= found.size:
                raise ValueError
        return found


@cache
def _sources() -> str:
    """A digest of the files that say what a kernel's name stands for."""
    digest = sha256()
    for path in (_PACKAGE / "catalogue.py", *sorted(_PACKAGE.glob("triton/*.py"))):
        digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _origin() -> dict[str, Any]:
    """What a bundle's index must say, so that it is this fastact's."""
    from . import __version__

    return {"format": FORMAT, "fastact": __version__, "sources": _sources()}


class Bundle:
    """A bundle that is this fastact's. Its kernels are read, and compared with their digests, one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = json.loads((folder / _INDEX).read_bytes())
            said = {key: index[key] for key in _origin()}
            self._check_origin(**said)
            self.targets = {
                int(name.removeprefix("sm_")): _Target.read(each) for name, each in index["targets"].items()
            }
        except OSError as error:
            raise self._refused(f"cannot be read: {_INDEX}: {error.strerror}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._refused(f"is corrupt: {_INDEX} is not one that fastact writes") from None

    def _refused(self, why: str) -> Refused:
        return Refused(f"the bundle in {self.folder} {why}")

    def _check_origin(self, format: Any, fastact: Any, sources: Any) -> None:
        ours = _origin()
        if format != FORMAT:
            raise self._refused(f"has format {format}, not {FORMAT}")
        if fastact != ours["fastact"]:
            raise self._refused(f"is for fastact {fastact}, not {ours['fastact']}")
        if sources != ours["sources"]:
            raise self._refused("was made from other sources of kernels than this fastact's")

    def target(self, capability: int) -> int:
        """The one that serves a chip."""
        fits = [
            each
            for each in self.targets
            if each == capability or (each < capability < _FOR_ONE_CHIP and each // 10 == capability // 10)
        ]
        if not fits:
            has = ", ".join(f"sm_{each}" for each in sorted(self.targets))
            raise self._refused(f"has no kernels for sm_{capability}, only for {has or 'no target at all'}")
        return max(fits)

    def find(self, name: str, capability: int) -> Kernel:
        """The kernel of a name for a chip."""
        target = self.target(capability)
        size, kernels = self.targets[target]
        if name not in kernels:
            raise self._refused("lacks kernels that are asked for")
        entry, path = kernels[name], self.folder / f"sm_{target}.bin"
        try:
            with path.open("rb") as file:
                if (found := os.fstat(file.fileno()).st_size) != size:
                    raise self._refused(f"is corrupt: {path.name} has {found} bytes, not {size}")
                file.seek(entry.offset)
                packed = file.read(entry.size)
        except OSError as error:
            raise self._refused(f"cannot be read: {path.name}: {error.strerror}") from None
        if entry.digest(name, packed) != entry.sha256:
            raise self._refused(f"is corrupt: {path.name} is not what {_INDEX} says")
        return Kernel(zlib.decompress(packed), *entry[:5])


def folder() -> Path | None:
    """Where this process looks for a bundle: FASTACT_BUNDLE says it, or there is one in the package."""
    if named := os.environ.get("FASTACT_BUNDLE"):
        return Path(named)
    packaged = _PACKAGE / "bundle"
    return packaged if packaged.exists() else None


@cache
def opened(folder: Path) -> Bundle:
    """The bundle in a folder."""
    return Bundle(folder)


def serves(capability: int) -> bool:
    """Whether there is a bundle, with kernels for a chip."""
    place = folder()
    try:
        return place is not None and opened(place).target(capability) > 0
    except Refused:
        return False


def find(name: str, capability: int) -> Kernel | None:
    """The kernel of a name for a chip; None where no bundle is looked for. Raises Refused where that has none."""
    place = folder()
    return None if place is None else opened(place).find(name, capability)


def _place(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def write(folder: Path, targets: Mapping[int, Mapping[str, Kernel]]) -> int:
    """Make a bundle of the kernels of each target, by their names, and return its bytes."""
    from triton import __version__ as triton

    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {**_origin(), "triton": triton, "targets": {}}
    total = 0
    for capability, kernels in sorted(targets.items()):
        packed = b""
        entries = {}
        for name, kernel in sorted(kernels.items()):
            code = zlib.compress(kernel.code, 9)
            entry = _Entry(*kernel[1:], offset=len(packed), size=len(code), sha256="")
            entries[name] = entry._replace(sha256=entry.digest(name, code))._asdict()
            packed += code
        _place(folder / f"sm_{capability}.bin", packed)
        index["targets"][f"sm_{capability}"] = {"size": len(packed), "kernels": entries}
        total += len(packed)
    for stale in {*folder.glob("sm_*.bin")} - {folder / f"{target}.bin" for target in index["targets"]}:
        stale.unlink()
    text = json.dumps(index, indent=1).encode() + b"\n"
    _place(folder / _INDEX, text)
    return total + len(text)
