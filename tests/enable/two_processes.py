"""One process of two, by gloo on the CPU: a check per way to distribute a model. `run` starts both."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from stock import OPS, functional, run_by
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import fastact

EPS = torch.finfo(torch.float32).eps


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4), nn.LogSoftmax(-1))


def batch() -> Tensor:
    return torch.linspace(-3, 3, 64).view(8, 8)


def gradients(model: nn.Module) -> list[Tensor]:
    """Of the mean over the whole batch, in one process with torch's ops."""
    before = fastact.is_enabled()
    fastact.disable()
    model(batch()).mean().backward()
    if before:
        fastact.enable()
    return [each.grad for each in model.parameters()]


def same(got: list[Tensor], expected: list[Tensor]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        # Three layers, each with sums of at most 16 products of order 3, over two halves of a batch of 8.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=64 * EPS)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def ran(call: Callable[[], object]) -> set[str]:
    """The names of fastact's ops that the call runs in this process."""
    return {name.removeprefix("fastact::") for name in run_by(call) if name.startswith("fastact::")}


def check_data_parallel(rank: int, mesh: DeviceMesh) -> None:
    model = nn.parallel.DistributedDataParallel(network(), bucket_cap_mb=1)
    part = batch().chunk(2)[rank]
    names = ran(lambda: model(part).mean().backward())
    masks = {"relu_mask", "relu_backward"}
    assert names == {"gelu", "gelu_backward", "log_softmax", "log_softmax_backward"} | masks, names
    same([each.grad for each in model.parameters()], gradients(network()))


def check_fully_sharded(rank: int, mesh: DeviceMesh) -> None:
    from torch.distributed.fsdp import fully_shard

    model = network()
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    part = batch().chunk(2)[rank]
    names = ran(lambda: model(part).mean().backward())
    assert {"gelu", "gelu_backward", "relu_backward", "log_softmax_backward"} <= names, names
    same([whole(each.grad) for each in model.parameters()], gradients(network()))


def check_tensor_parallel(rank: int, mesh: DeviceMesh) -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model = parallelize_module(network(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    names = ran(lambda: model(batch()).mean().backward())
    # After a collective comes a tensor that waits for it: there the node is torch's, which runs the kernel's forward.
    assert names == {"gelu", "gelu_backward", "relu", "log_softmax", "log_softmax_backward"}, names
    same([whole(each.grad) for each in model.parameters()], gradients(network()))


def check_distributed_tensors(rank: int, mesh: DeviceMesh) -> None:
    """Through every activation, with torch's strategies for it: what those refuse they refuse as before."""
    from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
    from torch.distributed.tensor.experimental import implicit_replication

    data, grad = torch.linspace(-2.9, 2.6, 48).view(6, 8), torch.linspace(-1, 1, 48).view(6, 8)
    local = 0

    def part(tensor: Tensor, placement: Placement) -> DTensor:
        if isinstance(placement, Shard):
            mine = tensor.chunk(2, placement.dim)[rank]
        else:
            mine = tensor / 2 if placement == Partial() else tensor
        return DTensor.from_local(mine.clone(), mesh, [placement], run_check=False)

    for name in (name for name in OPS if name != "rrelu"):
        for placement in (Shard(0), Shard(1), Replicate(), Partial()):
            outcomes = []
            for on in (True, False):
                (fastact.enable if on else fastact.disable)()
                input = part(data, placement).requires_grad_()
                results: list[Tensor] = []

                def call(name: str = name, input: Tensor = input, results: list = results) -> None:
                    with implicit_replication():
                        output = functional(name)(input)
                    results.append(output)
                    output.backward(part(grad[:, : output.shape[1]], output.placements[0]))

                try:
                    names = ran(call)
                except Exception as error:
                    outcomes.append((type(error), str(error).splitlines()[0]))
                    continue
                assert bool(names) <= on
                local += bool(names)
                tensors = [each.to_local().detach() for each in (results[0], input.grad)]
                outcomes.append([*tensors, (results[0].placements, input.grad.placements)])
            if isinstance(outcomes[1], tuple):
                assert outcomes[0] == outcomes[1], (name, placement, outcomes)
                continue
            assert outcomes[0][2] == outcomes[1][2]
            for mine, theirs in zip(outcomes[0][:2], outcomes[1][:2], strict=True):
                torch.testing.assert_close(mine, theirs, rtol=8 * EPS, atol=16 * EPS, msg=f"{name} {placement}")
    assert local > 60, local
    fastact.enable()


def check_pipeline(rank: int, mesh: DeviceMesh) -> None:
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    for schedule in (ScheduleGPipe, Schedule1F1B):
        model = network()
        part = (model[:3], model[3:])[rank]
        stage = PipelineStage(part, rank, 2, torch.device("cpu"))
        steps = schedule(stage, n_microbatches=4, loss_fn=lambda output, target: (output * target).mean())
        arguments = ((batch(),), {}) if rank == 0 else ((), {"target": torch.ones(8, 4)})
        names = ran(lambda steps=steps, arguments=arguments: steps.step(*arguments[0], **arguments[1]))
        assert ("gelu_backward" if rank == 0 else "relu_backward") in names, names
        expected = gradients(network())
        same([each.grad for each in part.parameters()], expected[:4] if rank == 0 else expected[4:])


def check_checkpointed_data_parallel(rank: int, mesh: DeviceMesh) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = nn.parallel.DistributedDataParallel(checkpoint_wrapper(copy.deepcopy(network())))
    model(batch().chunk(2)[rank]).mean().backward()
    same([each.grad for each in model.parameters()], gradients(network()))


def remade(norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    """Of layers whose outputs are made again in backward, with a dropout that is the same each time."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.SiLU()]
    return nn.Sequential(*layers, norm(16), nn.ReLU(), nn.Linear(16, 4))


def check_recomputed(rank: int, mesh: DeviceMesh) -> None:
    """Data parallel and fully sharded, with gradients that are bit for bit those without `recompute`."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    def sharded(norm: Callable[[int], nn.Module] = nn.BatchNorm1d, **more: object) -> nn.Module:
        model = remade(norm)
        for layer in (model[0], model[4]):
            fully_shard(layer, mesh=mesh, **more)
        return fully_shard(model, mesh=mesh, **more)

    ways: dict[str, Callable[[], nn.Module]] = {
        "data parallel": lambda: nn.parallel.DistributedDataParallel(remade(), bucket_cap_mb=1),
        "static graph": lambda: nn.parallel.DistributedDataParallel(remade(), static_graph=True),
        "fully sharded": sharded,
        "fully sharded, kept whole": lambda: sharded(reshard_after_forward=False),
        "fully sharded in bfloat16": lambda: sharded(
            nn.RMSNorm, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        ),
    }
    for name, build in ways.items():
        found = []
        for around in (nullcontext, partial(fastact.recompute, min_bytes=0)):
            model = build()
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            for step in range(3):
                torch.manual_seed(step)
                with around():
                    output = model(batch().chunk(2)[rank])
                output.float().square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            found.append([whole(each.detach()) for each in model.parameters()])
        for mine, theirs in zip(*found, strict=True):
            assert torch.equal(mine, theirs), name


CHECKS = [check_data_parallel, check_fully_sharded, check_tensor_parallel, check_distributed_tensors, check_pipeline]
CHECKS += [check_checkpointed_data_parallel, check_recomputed]


def main(rank: int, folder: str) -> None:
    warnings.simplefilter("ignore")  # torch's own, of which each of these has some
    torch.set_num_threads(1)
    rendezvous = {"init_method": f"file://{folder}/rendezvous", "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", timeout=timedelta(seconds=30), **rendezvous)
    mesh = init_device_mesh("cpu", (2,))
    fastact.enable()
    for check in CHECKS:
        try:
            check(rank, mesh)
            result = "passed"
        except BaseException as error:
            result = "".join(traceback.format_exception(error))
        Path(folder, f"{check.__name__} {rank}").write_text(result)
        dist.barrier()
    dist.destroy_process_group()


def run(folder: Path, attempts: int = 3) -> None:
    """Runs all checks, again if gloo waited in vain: it loses a message in one run of some, with torch's ops too."""
    try:
        torch.multiprocessing.spawn(main, args=(str(folder),), nprocs=2)
    except torch.multiprocessing.ProcessRaisedException as error:
        if attempts == 1 or "timeout" not in str(error).lower():
            raise
        for file in folder.iterdir():
            file.unlink()
        run(folder, attempts - 1)
