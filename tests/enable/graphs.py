"""Print, as JSON, the graphs that torch makes of a model, in a process where `fastact.enable()` has been called or not.

python graphs.py on|off
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode


class Script(nn.Module):
    """All activations that TorchScript can compile."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.linear(x))
        x = F.leaky_relu(x) + F.threshold(x, 0.1, 0.2) + F.hardtanh(x) + F.relu6(x)
        x = F.elu(x) + F.selu(x) + F.celu(x) + torch.sigmoid(x) + torch.tanh(x) + F.hardsigmoid(x)
        x = F.silu(x) + F.gelu(x) + F.gelu(x, approximate="tanh") + F.mish(x) + F.hardswish(x)
        x = F.hardshrink(x) + F.softshrink(x) + F.softplus(x) + F.logsigmoid(x) + self.prelu(x)
        x = F.glu(torch.cat([x, x], -1), -1)
        x = F.elu(x + 1, inplace=True) + F.silu(x + 1, inplace=True)
        return F.softmax(x, -1) + F.log_softmax(x, -1)


class Model(Script):
    """The same with what ONNX and TorchScript lack."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.rrelu(super().forward(x), training=True))


def graphs() -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    model, script, x = Model(), Script(), torch.randn(4, 3, 8)

    def compiled(training: bool) -> list[str]:
        from torch._dynamo.backends.common import aot_autograd
        from torch._inductor.decomposition import select_decomp_table

        seen: list[str] = []

        def backend(graph: torch.fx.GraphModule, example_inputs: list) -> Callable:
            seen.append(graph.code)
            return aot(graph, example_inputs)

        def keep(graph: torch.fx.GraphModule, example_inputs: list) -> Callable:
            seen.append(graph.code)
            return graph

        aot = aot_autograd(fw_compiler=keep, decompositions=select_decomp_table() if training else None)
        torch._dynamo.reset()
        with contextlib.nullcontext() if training else torch.inference_mode():
            output = torch.compile(script, backend=backend)(x.clone().requires_grad_(training))
        if training:
            output.sum().backward()
        assert len(seen) == 2 + training
        return seen

    def fake() -> list[str]:
        seen: list[str] = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                seen.append(str(func))
                return func(*args, **(kwargs or {}))

        with FakeTensorMode(), Watch():
            output = Script()(torch.randn(4, 3, 8))
            output.sum().backward()
        return [*seen, type(output).__name__]

    def onnx() -> str:
        program = torch.onnx.export(script.eval(), (x,), dynamo=True, verbose=False)
        return re.sub(r'pkg.torch.onnx.stack_trace.*|File ".*', "", str(program.model_proto.graph))

    def quantized() -> list[str]:
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        simple = nn.Sequential(
            nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Hardswish(), nn.Sigmoid(), nn.ELU()
        ).eval()
        prepared = prepare_fx(simple, get_default_qconfig_mapping("x86"), (x,))
        prepared(x)
        return [prepared.code, convert_fx(prepared).code]

    def functional(x: Tensor) -> Tensor:
        return torch.func.functional_call(script, dict(script.named_parameters()), x)

    def with_parameters(weight: Tensor, bias: Tensor, slope: Tensor, x: Tensor) -> Tensor:
        named = {"linear.weight": weight, "linear.bias": bias, "prelu.weight": slope}
        return torch.func.functional_call(script, named, x)

    def traced(tracing_mode: str, pre_dispatch: bool) -> str:
        parameters = (script.linear.weight, script.linear.bias, script.prelu.weight)
        return make_fx(with_parameters, tracing_mode=tracing_mode, pre_dispatch=pre_dispatch)(*parameters, x).code

    def exported(**more: object) -> torch.export.ExportedProgram:
        return torch.export.export(model, (x,), **more)

    def gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(script(x).sum(), x)[0]

    found: dict[str, Callable[[], object]] = {
        "compile": lambda: compiled(True),
        "compile for inference": lambda: compiled(False),
        "export": lambda: str(exported(strict=False).graph),
        "export strictly": lambda: str(exported(strict=True, dynamic_shapes=({0: torch.export.Dim("n")},)).graph),
        "export, decomposed": lambda: str(exported().run_decompositions().graph),
        "export, in core ops": lambda: str(exported().run_decompositions({}).graph),
        "make_fx of a gradient": lambda: make_fx(gradient)(x.clone().requires_grad_()).code,
        "make_fx of torch.func.grad": lambda: make_fx(torch.func.grad(lambda x: functional(x).sum()))(x).code,
        "make_fx of torch.func.jvp": lambda: make_fx(lambda x: torch.func.jvp(torch.tanh, (x,), (x,)))(x).code,
        "make_fx of vmap": lambda: make_fx(torch.vmap(lambda x: F.gelu(F.relu(x)).softmax(0)))(x).code,
        "make_fx of functionalize": lambda: make_fx(torch.func.functionalize(functional))(x).code,
        "jit.trace": lambda: str(torch.jit.trace(script, x).inlined_graph),
        "jit.script": lambda: str(torch.jit.script(script).inlined_graph),
        "jit.freeze": lambda: str(torch.jit.freeze(torch.jit.script(Script().eval())).graph),
        "fx.symbolic_trace": lambda: torch.fx.symbolic_trace(script).code,
        "fake tensors": fake,
        "ONNX": onnx,
        "quantization": quantized,
    }
    for mode, pre_dispatch in (("real", False), ("real", True), ("fake", False), ("symbolic", False)):
        name = f"make_fx, {mode}{', pre-dispatch' * pre_dispatch}"
        found[name] = lambda mode=mode, pre_dispatch=pre_dispatch: traced(mode, pre_dispatch)
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if sys.argv[1] == "on":
        import fastact

        fastact.enable()
    else:
        assert "fastact" not in sys.modules
    out, sys.stdout = sys.stdout, io.StringIO()  # exporters report there
    json.dump({name: make() for name, make in graphs().items()}, out)
