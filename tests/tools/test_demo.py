"""The demo: from end to end, and its readers of MNIST and CIFAR-10 on files in those formats."""

from __future__ import annotations

import gzip
import json
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import train_digits as demo

from fastact.catalogue import ACTIVATIONS, Activation
from fastact.enable import TORCH_OPS

EPS = torch.finfo(torch.float32).eps


def _write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    path.write_bytes(content)


def _bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)


def test_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main(["--epochs", "1", "--activations", "ReLU", "Sigmoid", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    pictures = ["activations.png", "gradients.png", "losses.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*pictures, "results.json", "table.md"])
    for picture in pictures:
        assert (tmp_path / picture).read_bytes()[:4] == b"\x89PNG"
        assert (tmp_path / picture).stat().st_size > 10_000

    results = {
        result["activation"]: result for result in json.loads((tmp_path / "results.json").read_text())["results"]
    }
    assert list(results) == ["ReLU", "Sigmoid"]
    for result in results.values():
        ours, enabled, stock = result["fastact"], result["enabled"], result["torch"]
        assert len(ours["losses"]) == len(stock["losses"]) == 1437 // 128
        # The same kernels, but for the loss's log_softmax, whose last digits training soon magnifies.
        assert enabled["losses"][0] == pytest.approx(ours["losses"][0], rel=2 * EPS)
        assert enabled["activations_saved_bytes"] == ours["activations_saved_bytes"]
        assert enabled["network_saved_bytes"] == ours["network_saved_bytes"]
        assert enabled["step_ms"] > 0
        # Each step may add an ULP of difference: a loss is a mean of 128, whose own roundings differ either way.
        np.testing.assert_allclose(ours["losses"], stock["losses"], rtol=len(ours["losses"]) * EPS)
        assert ours["step_ms"] > 0
        assert [layer["layer"] for layer in result["monitor"]] == ["1", "4", "8"]
        assert result["kernels_ran"] == result["enabled_ran"] == 3
    relu = results["ReLU"]
    assert relu["fastact"]["losses"][-1] < relu["fastact"]["losses"][0]
    elements = 128 * (32 * 8 * 8 + 64 * 4 * 4 + 512)
    assert relu["fastact"]["activations_saved_bytes"] == elements / 8
    assert relu["torch"]["activations_saved_bytes"] == elements * 4
    assert relu["torch"]["network_saved_bytes"] > elements * 4

    lines = printed.splitlines()
    assert max(map(len, lines[:-1])) <= demo.WIDTH  # the last one has a path
    assert sum(line.startswith(("ReLU ", "Sigmoid ")) for line in lines) == 2
    assert (tmp_path / "table.md").read_text().count("\n| ReLU |") == 1


@pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=lambda row: row.name)
def test_the_networks_of_every_activation(row: Activation) -> None:
    data = demo.Data(*(torch.randn(6, 1, 8, 8), torch.randint(10, (6,))) * 2)
    ours, enabled, stock = demo.start(row, data, demo.options_from([]))
    assert ours.saved_bytes(data.train_images)[2] == 3
    replaced = row.name in TORCH_OPS or (row.name == "softmin" and bool(TORCH_OPS))  # torch's softmax of -x
    assert enabled.saved_bytes(data.train_images)[2] == 3 * replaced
    assert stock.saved_bytes(data.train_images)[2] == 0
    if not row.random:
        # In float64: in float32 three layers of squares or cubes magnify what each rounds.
        images = data.train_images.double()
        expected = stock.net.double()(images)
        torch.testing.assert_close(ours.net.double()(images), expected)
        with enabled.kernels():
            torch.testing.assert_close(enabled.net.double()(images), expected)


def test_only_random_activations_carry_the_mark() -> None:
    library = demo.Library(0.5, 1.0, 8, 16, [2.0])
    results = [demo.Result(name, name == "RReLU", library, library, library, 0, 0, []) for name in ("ReLU", "RReLU")]
    text = demo.terminal_table(results)
    assert "RReLU\N{DAGGER} " in text
    assert text.count("\N{DAGGER}") == 1


def test_a_loss_that_is_none() -> None:
    library = demo.Library(0.5, 1.0, 8, 16, [2.0, float("nan"), 1.0])
    result = demo.Result("ReLU", False, library, library, library, 0, 0, [])
    assert math.isnan(result.loss_difference)
    assert demo.terminal_table([result]).splitlines()[-2].endswith(" nan")


def test_who_has_learned_little_is_named() -> None:
    data = demo.Data(*(torch.zeros(6, 1, 8, 8), torch.zeros(6)) * 2)
    good, bad = (demo.Library(accuracy, 1.0, 8, 16, [2.0]) for accuracy in (0.9, 0.1))
    three = {"ReLU": (good, good, good), "Sigmoid": (bad, bad, bad), "Tanh": (bad, good, bad)}
    results = [demo.Result(name, False, *each, 0, 0, []) for name, each in three.items()]
    (note,) = [note for note in demo.notes(results, data) if "right in all networks" in note]
    assert [name for name in three if name in note] == ["Sigmoid"]


def test_the_table_fits_a_terminal() -> None:
    library = demo.Library(0.98765, 345.678, 39 << 20, 79 << 20, [2.0])
    layer = {"dead": 0.123, "saturated": 0.123, "sparsity": 0.5, "grad_norm": 1e-5}
    last = {**layer, "grad_norm": 1.2e-3}
    lines = demo.terminal_table(
        [demo.Result("Hardsigmoid", True, library, library, library, 3, 3, [layer, last])]
    ).splitlines()
    assert max(map(len, lines)) <= demo.WIDTH
    assert "0.0083" in lines[-2]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "MNIST/raw"])
def test_mnist_files(tmp_path: Path, ending: str, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    images, labels = _bytes(5, 28, 28), np.arange(5, dtype=np.uint8)
    for part, count in (("train", 5), ("t10k", 3)):
        _write_idx(tmp_path / folder / f"{part}-images-idx3-ubyte{ending}", images[:count])
        _write_idx(tmp_path / folder / f"{part}-labels-idx1-ubyte{ending}", labels[:count])
    data = demo.load_mnist(tmp_path)
    assert torch.equal(data.train_images, torch.from_numpy(images)[:, None].float())
    assert data.train_labels.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(data.test_images, data.train_images[:3])
    assert data.test_labels.tolist() == [0, 1, 2]
    normalised = demo.load("mnist", tmp_path, 0, torch.device("cpu")).train_images
    # The mean, 1.7 times the deviation, and the quotients are rounded by half an eps; so is what is taken here.
    assert normalised.mean().item() == pytest.approx(0, abs=2 * EPS)
    assert normalised.std().item() == pytest.approx(1, rel=2 * EPS)


def test_cifar10_files(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = _bytes(4, 3072)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {b"batch_label": b"one", b"labels": [i, 9], b"data": pixels[i % 3 : i % 3 + 2]}
        # The published ones were written by numpy 1 in protocol 2.
        content = pickle.dumps(batch, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        (folder / name).write_bytes(content)
    data = demo.load_cifar10(tmp_path)
    assert data.train_images.shape == (10, 3, 32, 32)
    assert data.train_labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.test_labels.tolist() == [5, 9]
    # A row holds the red plane, then the green, then the blue, each by rows.
    assert data.train_images[0, 1, 2, 3] == pixels[0, 1024 + 2 * 32 + 3]


def test_a_pickle_that_calls_anything_is_refused(tmp_path: Path) -> None:
    class Mischief:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "made",))

    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps(Mischief()))
    with pytest.raises(pickle.UnpicklingError, match="does not hold"):
        demo.load_cifar10(tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("data", "needed"),
    [("mnist", ("train-images-idx3-ubyte, ", "(or .gz)", "yann.lecun.com")),
     ("cifar10", ("data_batch_5", "test_batch", "cifar-10-python.tar.gz"))],
)  # fmt: skip
def test_missing_files_are_named(tmp_path: Path, data: str, needed: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as error:
        demo.main(["--data", data, "--root", str(tmp_path)])
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in (*needed, str(tmp_path)))
