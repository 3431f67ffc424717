"""Bundles of compiled kernels: what is written is found, also without Triton, and what cannot be right is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_warmup import asked_kernels, python

from fastact import bundle, gpu
from fastact.bundle import Kernel
from fastact.tools import info

pytestmark = pytest.mark.only("cpu")

KERNELS = {
    "relu forward float32": Kernel(b"\x7fELF" + bytes(range(256)), "relu", 4, 0, 2048),
    "softmax forward float32 float32 rows 1x4096 one": Kernel(b"\x7fELF" + 999 * b"x", "softmax", 16, 64, 4096, 1),
    "prelu backward float32 channel=outer": Kernel(b"\x7fELF" + 99 * b"yz", "prelu", 4, 512, 64, 32),
}
NAME = next(iter(KERNELS))


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    bundle.opened.cache_clear()
    yield
    bundle.opened.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle for two targets, which this process looks into."""
    folder = tmp_path / "kernels"
    bundle.write(folder, {80: KERNELS, 90: KERNELS})
    monkeypatch.setenv("FASTACT_BUNDLE", str(folder))
    return folder


def test_what_is_written_is_found(device: str, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "sm_80.bin", "sm_90.bin"]
    for name, kernel in KERNELS.items():
        assert gpu.find(name, 90) == kernel


def test_a_bundle_is_written_over(device: str, folder: Path) -> None:
    size = bundle.write(folder, {90: {NAME: KERNELS[NAME]._replace(code=b"\x7fELF")}})
    assert {path.name for path in folder.iterdir()} == {"index.json", "sm_90.bin"}
    assert size == sum(path.stat().st_size for path in folder.iterdir())
    assert gpu.find(NAME, 90).code == b"\x7fELF"


def test_what_is_half_written_is_not_there(device: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        real(path, data[: len(data) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OSError, match="No space"):
        bundle.write(folder, {90: {NAME: KERNELS[NAME]._replace(code=b"\x7fELF")}})
    assert gpu.find(NAME, 90) == KERNELS[NAME]


@pytest.mark.parametrize(
    ("capability", "target"),
    [(80, 80), (86, 86), (89, 86), (90, 90), (100, 100), (75, None), (91, None), (103, None), (110, None)],
)
def test_a_chip_is_served_by_code_that_it_runs(capability: int, target: int | None, device: str, folder: Path) -> None:
    bundle.write(folder, {each: {NAME: KERNELS[NAME]._replace(symbol=f"sm_{each}")} for each in (80, 86, 90, 100)})
    if target is None:
        said = f"has no kernels for sm_{capability}, only for sm_80, sm_86, sm_90, sm_100$"
        with pytest.raises(bundle.Refused, match=said):
            bundle.find(NAME, capability)
    else:
        assert gpu.find(NAME, capability).symbol == f"sm_{target}"


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Writes an index that says something else."""

    def edit(folder: Path) -> None:
        path = folder / "index.json"
        index = json.loads(path.read_text())
        change(index)
        path.write_text(json.dumps(index))

    return edit


def of_kernel(**fields: Any) -> Callable[[Path], None]:
    return edited(lambda index: index["targets"]["sm_90"]["kernels"][NAME].update(fields))


def with_bytes(change: Callable[[bytes], bytes], name: str = "sm_90.bin") -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def swapped(folder: Path) -> None:
    """Two names stand for each other's kernels."""

    def swap(index: dict[str, Any]) -> None:
        kernels = index["targets"]["sm_90"]["kernels"]
        other = next(name for name in KERNELS if name != NAME)
        kernels[NAME], kernels[other] = kernels[other], kernels[NAME]

    edited(swap)(folder)


NO_INDEX = "is corrupt: index.json is not one that fastact writes"
NOT_THE_CODE = "is corrupt: sm_90.bin is not what index.json says"
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "cannot be read: index.json: No such file or directory"),
    "no index": (lambda folder: (folder / "index.json").unlink(), "cannot be read: index.json: No such file"),
    "no file": (lambda folder: (folder / "sm_90.bin").unlink(), "cannot be read: sm_90.bin: No such file"),
    "index cut off": (with_bytes(lambda data: data[:-9], "index.json"), NO_INDEX),
    "index of bytes": (with_bytes(lambda data: b"\xff" + data, "index.json"), NO_INDEX),
    "index without end": (with_bytes(lambda data: 10**5 * b"[", "index.json"), NO_INDEX),
    "index of a list": (with_bytes(lambda data: b"[]", "index.json"), NO_INDEX),
    "no kernels": (edited(lambda index: index["targets"]["sm_90"].pop("kernels")), NO_INDEX),
    "no such target": (edited(lambda index: index["targets"].update(hopper={"size": 0, "kernels": {}})), NO_INDEX),
    "no warps": (edited(lambda index: index["targets"]["sm_90"]["kernels"][NAME].pop("warps")), NO_INDEX),
    "warps as text": (of_kernel(warps="4"), NO_INDEX),
    "before the file": (of_kernel(offset=-1), NO_INDEX),
    "beyond the file": (of_kernel(size=10**6), NO_INDEX),
    "nothing": (of_kernel(size=0), NO_INDEX),
    "other place": (of_kernel(offset=1), NOT_THE_CODE),
    "other block": (of_kernel(block=4096), NOT_THE_CODE),
    "other code": (with_bytes(lambda data: bytes(byte ^ 1 for byte in data)), NOT_THE_CODE),
    "swapped names": (swapped, NOT_THE_CODE),
    "file cut off": (with_bytes(lambda data: data[:-1]), r"is corrupt: sm_90.bin has \d+ bytes, not \d+"),
    "file too long": (with_bytes(lambda data: data + b"x"), r"is corrupt: sm_90.bin has \d+ bytes, not \d+"),
    "format": (edited(lambda index: index.update(format=2)), "has format 2, not 1"),
    "version": (edited(lambda index: index.update(fastact="0.0.9")), r"is for fastact 0\.0\.9, not \d"),
    "sources": (edited(lambda index: index.update(sources="")), "was made from other sources of kernels than this"),
    "target": (edited(lambda index: index["targets"].pop("sm_90")), "has no kernels for sm_90, only for sm_80"),
    "no target": (
        edited(lambda index: index["targets"].clear()),
        "has no kernels for sm_90, only for no target at all",
    ),
    "incomplete": (
        edited(lambda index: index["targets"]["sm_90"]["kernels"].clear()),
        "lacks kernels that are asked for",
    ),
}


@pytest.fixture(params=REFUSED)
def refused(request: pytest.FixtureRequest, folder: Path) -> str:
    """A bundle that is refused: what is said of it."""
    change, why = REFUSED[request.param]
    change(folder)
    return f"since the bundle in {folder} {why}"


def test_what_is_refused_is_compiled(refused: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Kernel(b"\x7fELF", "compiled", 4, 0, 2048)
    monkeypatch.setattr(gpu, "compile", lambda name, capability: compiled)
    with pytest.warns(RuntimeWarning, match=f"^fastact compiles kernels by Triton, {refused}") as said:
        assert gpu.find(NAME, 90) == compiled
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu.find(NAME, 90) == compiled  # said once


def test_what_is_refused_without_triton(refused: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "triton_is_installed", lambda: False)
    with pytest.raises(gpu.NoKernel, match=f"^Triton is not installed, and {refused.removeprefix('since ')}"):
        gpu.find(NAME, 90)


def test_without_triton_and_bundle(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "triton_is_installed", lambda: False)
    monkeypatch.setattr(bundle, "folder", lambda: None)
    with pytest.raises(gpu.NoKernel, match=r"^Triton is not installed, and there is no bundle of compiled kernels$"):
        gpu.find(NAME, 90)


def test_a_bundle_in_the_package_is_found(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTACT_BUNDLE", raising=False)
    digest = bundle._sources()
    monkeypatch.setattr(bundle, "_PACKAGE", tmp_path)
    assert bundle._sources() == digest
    assert bundle.folder() is None
    bundle.write(tmp_path / "bundle", {90: KERNELS})
    assert gpu.find(NAME, 90) == KERNELS[NAME]
    monkeypatch.setenv("FASTACT_BUNDLE", str(tmp_path / "another"))
    assert bundle.folder() == tmp_path / "another"


def test_info_says_which_bundle(device: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "triton_is_installed", lambda: False)
    assert info.environment()["Bundle"] == f"{folder}: 3 kernels for sm_80, 3 kernels for sm_90"
    assert " bundle " in info.report()
    edited(lambda index: index.update(fastact="0.0.9"))(folder)
    bundle.opened.cache_clear()
    assert info.environment()["Bundle"].startswith(f"not used: the bundle in {folder} is for fastact 0.0.9, not ")
    assert " bundle " not in info.report().partition("activation")[2]
    monkeypatch.setattr(bundle, "folder", lambda: None)
    assert info.environment()["Bundle"] == "none"


def test_another_process_runs_without_triton(device: str, tmp_path: Path) -> None:
    """From a bundle that the command made: what it has is found, and for what it has not torch's op runs."""
    folder = tmp_path / "bundle"
    options = ["--activations", "bilinear", "--dtypes", "bfloat16", "--target", "sm_90", "--target", "sm_80"]
    said = python("-m", "fastact", "warmup", *options, "--bundle", folder, TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert said.startswith("8 kernels, 8 of them compiled anew, in ")
    assert f"Bundle: {folder}, 0." in said
    facts = asked_kernels("without-triton", "bilinear", "silu", FASTACT_BUNDLE=str(folder))
    assert facts["found"] == ["bilinear forward bfloat16 rows", "bilinear backward bfloat16 rows"]
    assert facts["said"] == [
        "fastact runs torch's op on cpu where a kernel is missing (silu forward bfloat16: Triton is not installed, and "
        f"the bundle in {folder} lacks kernels that are asked for)"
    ]
