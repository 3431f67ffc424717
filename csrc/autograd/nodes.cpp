// The autograd of the ops, in C++: which calls run kernels, what a node saves, and what its backward runs. A node costs
// a few microseconds less than one in Python, which decides whether kernels pay off on small tensors. Nodes are no part
// of LibTorch's stable ABI, so this library serves only the release of torch that it was compiled with; elsewhere
// fastact/autograd.py takes its place.
#include "autograd/l1.h"
#include "autograd/monitor.h"
#include "autograd/producers.h"

namespace fastact {
namespace {

// Calls body with the name of each op that takes part in autograd, its row, and whether it works in place.
template <class Body>
void for_each_op(const Body& body) {
  for (const auto& [name, op] : ops()) {
    body(name, op, false);
    if (op.saving_in_place) body(name + "_", op, true);
  }
}

void implement_autograd(torch::Library& library) {
  for_each_op([&](const std::string& name, const NodeSpec& op, bool in_place) {
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Forward>(op, in_place)));
  });
}

}  // namespace
}  // namespace fastact

TORCH_LIBRARY_FRAGMENT(fastact, library) {
  // In Python; see fastact/autograd.py.
  library.def(
      "differentiable_backward(str name, Tensor grad, Tensor[] saved, float[] scalars, int[] strides) -> Tensor[]");
  // From libfastact.so; 0 where CPU tensors go to other kernels.
  library.def("call_directly(int address) -> ()",
              [](int64_t address) { fastact::run_direct() = reinterpret_cast<fastact::RunDirect>(address); });
  library.def("overridable() -> Dict(str, str[])", [] {
    c10::Dict<std::string, std::vector<std::string>> found;
    for (auto& [name, stand_ins] : fastact::overridable()) found.insert(name, stand_ins);
    return found;
  });
  library.def("set_within(bool value) -> bool", [](bool value) { return std::exchange(fastact::within(), value); });
  library.def("leave_gpu(int index) -> ()", [](int64_t index) { fastact::gpus_left() |= uint64_t{1} << index; });
  library.def("overriding() -> str[]", [] { return fastact::overriding(); });
  library.def("set_overrides(str[] names) -> ()",
              [](const std::vector<std::string>& names) { fastact::set_overrides(names); });
  library.def("set_watching(bool value) -> ()", [](bool value) {
    if (value) fastact::install_overrides_once();
    fastact::watching() = value;
  });
  // For fastact/l1.py.
  library.def("l1_of_output(Tensor output) -> Tensor?", &fastact::l1_of_output);
  // For fastact/monitor/layers.py.
  library.def(
      "watch_(Tensor output, Tensor? flat_of, Tensor? bounds, int unit_dim, Tensor(a!)? counts, Tensor(b!)? awake, "
      "Tensor(c!) outputs, Tensor(d!) gradients, Tensor control, Tensor(e!) unseen) -> bool",
      &fastact::watch);
  // For fastact/recompute.py.
  library.def("producers() -> str[]", [] { return fastact::producers(); });
  library.def("open_registry(int least_bytes) -> ()", [](int64_t least_bytes) { fastact::open_registry(least_bytes); });
  library.def("close_registry() -> ()", [] { fastact::Registry::current().reset(); });
  library.def("pack(Tensor tensor) -> Tensor?", [](const fastact::Tensor& tensor) -> std::optional<fastact::Tensor> {
    auto packed = fastact::pack(tensor);
    if (!packed) return std::nullopt;
    return fastact::Packed::token(std::move(packed));
  });
  library.def("unpack(Tensor packed) -> Tensor",
              [](const fastact::Tensor& packed) { return fastact::Packed::of(packed).unpack(); });
  library.def("recipe_op(Tensor packed) -> str",
              [](const fastact::Tensor& packed) { return fastact::Packed::of(packed).op(); });
  library.def("recipe_sources(Tensor packed) -> Tensor[]",
              [](const fastact::Tensor& packed) { return fastact::Packed::of(packed).sources(); });
  // In Python; see fastact/coverage.py.
  library.def(
      "seen(str op, str row, str why, bool unwanted, bool kernel_ran, bool torch_within, Tensor about, int numel) -> "
      "()");
  library.def("why_torchs(Tensor input) -> str", [](const fastact::Tensor& input) -> std::string {
    const fastact::Why why = fastact::in_transform() ? "function transform" : fastact::why_torchs(input, input);
    return why ? why : "";
  });
}

TORCH_LIBRARY_IMPL(fastact, Autograd, library) { fastact::implement_autograd(library); }

TORCH_LIBRARY_IMPL(fastact, FuncTorchDynamicLayerFrontMode, library) {
  fastact::for_each_op([&](const std::string& name, const fastact::NodeSpec&, bool) {
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&fastact::run_decomposition>());
  });
}

TORCH_LIBRARY_IMPL(fastact, ADInplaceOrView, library) {
  fastact::for_each_op([&](const std::string& name, const fastact::NodeSpec& op, bool in_place) {
    if (!in_place) return;
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&fastact::run_in_place>());
    if (op.saves == fastact::Saves::kMask)
      library.impl((op.name + "_mask_").c_str(), torch::CppFunction::makeFromBoxedFunction<&fastact::run_in_place>());
  });
}
