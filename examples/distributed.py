"""Trains one network on two processes, each with data of its own, and reports what one of them saw, and what both."""

import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import fastact


def train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    fastact.enable()  # in each process
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    torch.manual_seed(rank)
    sign = 1 - 2 * rank  # one process sees the plane's right half, the other its left half
    with fastact.Monitor(model) as monitor:
        for _ in range(50):
            points = torch.randn(64, 2)
            points[:, 0] = sign * (points[:, 0].abs() + 1)
            labels = (points[:, 0] * points[:, 1] > 0).long()
            with fastact.recompute():
                loss = F.cross_entropy(parallel(points), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    alone, together = monitor.report(), monitor.report(across_ranks=True)  # each process calls
    if rank == 0:
        print(f"process 0:\n{alone}\n\nboth:\n{together}")
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (folder,), nprocs=2)
