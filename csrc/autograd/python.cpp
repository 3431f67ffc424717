// Functions of Python's: the ops, and what fastact/dispatch.py asks before it calls them. torch makes functions of ops
// from schemas: to convert arguments by these, to look for overloads and to go through the dispatcher takes a third of
// a call of few elements, and questions asked in Python another (docs/findings/044). Here each has an answer for what
// is usual; the rest is left to a function in Python or of torch's.
//
// Of Python this uses the stable ABI alone, so that the library serves every Python. torch's headers do not compile
// under Py_LIMITED_API: tools/wheels.py looks into the library instead.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <unordered_map>

#include "autograd/overrides.h"

namespace fastact {
namespace {

// A call's arguments, by position.
struct Given {
  PyObject* const* first;
  size_t count;
  PyObject* operator[](size_t i) const { return first[i]; }
};

// A new reference to itself.
PyObject* counted(PyObject* object) {
  Py_IncRef(object);
  return object;
}
// Answers, beside objects: the call is left to another function; an error is set.
constexpr PyObject* kLeft = nullptr;
constexpr PyObject* kFailed = nullptr;
PyObject* answer(bool value) { return PyBool_FromLong(value); }

bool is_tensor(PyObject* object) { return THPVariable_CheckTypeExact(Py_TYPE(object)); }
const Tensor& tensor(PyObject* object) { return THPVariable_Unpack(object); }

// The number of an int whose size fits too, not of a class that is derived from it; of an int or a float.
std::optional<int64_t> integer(PyObject* object) {
  int overflow = 0;
  if (Py_TYPE(object) != &PyLong_Type) return std::nullopt;
  const int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
  if (overflow != 0 || value == std::numeric_limits<int64_t>::min()) return std::nullopt;
  return value;
}
std::optional<double> number(PyObject* object) {
  if (Py_TYPE(object) == &PyFloat_Type) return PyFloat_AsDouble(object);
  if (const auto value = integer(object)) return static_cast<double>(*value);
  return std::nullopt;
}

struct WithoutGil {
  PyThreadState* const state = PyEval_SaveThread();
  WithoutGil() = default;
  ~WithoutGil() { PyEval_RestoreThread(state); }
  WithoutGil(const WithoutGil&) = delete;
};

// Whether the dispatcher would lead a call with plain tensors straight to `Forward`, and nobody is to see it.
bool leads_to_forward() {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  DispatchKeySet excluded = c10::default_excluded_set;  // autocast's, for which a program may have registered a kernel
  if (!at::GradMode::is_enabled()) excluded = excluded | (keys.excluded_ & c10::autograd_dispatch_keyset);  // inference
  return (keys.included_ - c10::default_included_set).empty() && keys.excluded_ == excluded && !is_watched() &&
         !at::impl::torch_function_mode_enabled();
}

// The questions of fastact/dispatch.py and `draw_seed` of fastact/ops.py, which say what they mean.
namespace questions {

PyObject* takes_in_eager_mode(Given given) {
  if (given.count == 0) return kLeft;
  if (!is_tensor(given[0]) || !has_kernel_dtype(tensor(given[0])) ||
      c10::impl::tls_is_dispatch_key_included(DispatchKey::Tracer) || is_tracing())
    return answer(false);
  for (size_t i = 1; i < given.count; ++i)
    if (!is_tensor(given[i]) || tensor(given[i]).device() != tensor(given[0]).device()) return answer(false);
  return answer(true);
}

PyObject* accepts(Given given) {
  static const auto ops = [] {
    std::unordered_map<std::string_view, int> numbers;
    for (int which = 0; which < kElementwiseCount; ++which) numbers.emplace(kOps[which].name, which);
    return numbers;
  }();
  if (given.count < 2 || given.count > 2 + most(Kind::kScalar) || Py_TYPE(given[0]) != &PyUnicode_Type ||
      !is_tensor(given[1]))
    return kLeft;
  Py_ssize_t size = 0;
  const char* const name = PyUnicode_AsUTF8AndSize(given[0], &size);
  if (!name) return kFailed;
  const auto found = ops.find({name, static_cast<size_t>(size)});
  if (found == ops.end()) return kLeft;
  c10::SmallVector<IValue, 2> scalars;
  for (size_t i = 2; i < given.count; ++i) {
    const auto scalar = number(given[i]);
    if (!scalar) return kLeft;
    scalars.emplace_back(*scalar);
  }
  return answer(fastact::accepts(found->second, tensor(given[1]).scalar_type(), scalars));
}

PyObject* rounded(Given given) {
  if (given.count != 2 || Py_TYPE(given[0]) != &PyFloat_Type || !is_tensor(given[1])) return kLeft;
  const at::ScalarType dtype = tensor(given[1]).scalar_type();
  if (dtype != at::kHalf && dtype != at::kBFloat16) return counted(given[0]);
  return PyFloat_FromDouble(fastact::rounded(PyFloat_AsDouble(given[0]), dtype));
}

PyObject* contiguous(Given given) {
  if (given.count != 1 || !is_tensor(given[0]) || tensor(given[0]).layout() != at::kStrided) return kLeft;
  return tensor(given[0]).is_contiguous() ? counted(given[0]) : kLeft;
}

PyObject* weights_fit(Given given) {
  if (given.count == 0 || !is_tensor(given[0])) return kLeft;
  const Tensor& input = tensor(given[0]);
  for (size_t i = 1; i < given.count; ++i) {
    if (!is_tensor(given[i]) || tensor(given[i]).scalar_type() != input.scalar_type()) return kLeft;
    const Tensor& weight = tensor(given[i]);
    if (weight.layout() != at::kStrided || !weight.is_contiguous() || !fits_channels(weight, input))
      return answer(false);
  }
  return answer(true);
}

PyObject* softmax_dtype(Given given) {
  if (given.count != 3 || !is_tensor(given[0]) || given[2] != Py_None || tensor(given[0]).is_cuda())
    return kLeft;  // on a GPU autocast has a say
  const auto dim = integer(given[1]);
  if (!dim) return kLeft;
  const Tensor& input = tensor(given[0]);
  const bool fits = *dim == -1 || has_dim(input, *dim);
  return PyLong_FromLong(fits ? static_cast<long>(input.scalar_type()) : 0);
}

PyObject* draw_seed(Given given) {
  if (given.count != 1 || !is_tensor(given[0]) || !tensor(given[0]).is_cpu() || !leads_to_forward()) return kLeft;
  return THPVariable_Wrap([&] {
    const WithoutGil released;  // another thread may hold the generator for long
    return fastact::draw_seed(tensor(given[0]), std::nullopt);
  }());
}

}  // namespace questions

PyObject* call(PyObject* self, PyObject* const* given, Py_ssize_t count);

// A function of Python's. It lasts as long as the process.
struct Function {
  const std::string name;
  PyObject* const otherwise;
  PyMethodDef definition = {name.c_str(), reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&call)), METH_FASTCALL,
                            nullptr};

  Function(std::string name, PyObject* otherwise) : name(std::move(name)), otherwise(counted(otherwise)) {}
  virtual ~Function() = default;
  // What it returns, with `kLeft` if `otherwise` is to see to the call.
  virtual PyObject* operator()(Given given) const = 0;
};

struct Question : Function {
  PyObject* (*const answer)(Given);

  Question(std::string name, PyObject* otherwise, PyObject* (*answer)(Given))
      : Function(std::move(name), otherwise), answer(answer) {}
  PyObject* operator()(Given given) const override { return answer(given); }
};

// An op; one in place returns its input.
struct OpFunction : Function {
  const Forward forward;
  const OperatorHandle plain;
  std::vector<c10::TypeKind> expected;

  OpFunction(std::string name, PyObject* otherwise, Forward forward, OperatorHandle plain)
      : Function(std::move(name), otherwise), forward(forward), plain(plain) {
    for (const c10::Argument& each : plain.schema().arguments()) expected.push_back(each.type()->kind());
  }

  PyObject* operator()(Given given) const override {
    if (!leads_to_forward()) return kLeft;
    if (given.count != expected.size()) return kLeft;
    Pushed arguments;
    for (size_t i = 0; i < given.count; ++i)
      if (!push(arguments, given[i], expected[i])) return kLeft;
    if (!forward.takes(plain, arguments)) return kLeft;
    Tensor output = [&] {
      const WithoutGil released;
      return forward.run(plain, arguments);
    }();
    return forward.in_place ? counted(given[0]) : THPVariable_Wrap(std::move(output));
  }

 private:
  // Returns false for an argument that is not what the schema names.
  static bool push(Pushed& to, PyObject* given, c10::TypeKind expected) {
    switch (expected) {
      case c10::TypeKind::OptionalType:
        if (given == Py_None) {
          to.emplace_back();
          return true;
        }
        [[fallthrough]];
      case c10::TypeKind::TensorType:
        if (!is_tensor(given) || !tensor(given).defined()) return false;
        to.emplace_back(tensor(given));
        return true;
      case c10::TypeKind::FloatType:
        if (const auto scalar = number(given)) {
          to.emplace_back(*scalar);
          return true;
        }
        return false;
      case c10::TypeKind::IntType:
        if (const auto value = integer(given)) {
          to.emplace_back(*value);
          return true;
        }
        return false;
      case c10::TypeKind::BoolType:
        if (Py_TYPE(given) != &PyBool_Type) return false;
        to.emplace_back(given == Py_True);
        return true;
      default:
        return false;
    }
  }
};

PyObject* call(PyObject* self, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const auto& function = *static_cast<const Function*>(PyCapsule_GetPointer(self, nullptr));
  PyObject* const answer = function({given, static_cast<size_t>(count)});
  if (answer || PyErr_Occurred()) return answer;
  PyObject* const arguments = PyTuple_New(count);
  for (Py_ssize_t i = 0; arguments && i < count; ++i) PyTuple_SetItem(arguments, i, counted(given[i]));
  PyObject* const result = arguments ? PyObject_CallObject(function.otherwise, arguments) : nullptr;
  Py_DecRef(arguments);
  return result;
  END_HANDLE_TH_ERRORS
}

PyObject* object_of(Function* function) {
  PyObject* const capsule = PyCapsule_New(function, nullptr, nullptr);
  PyObject* const made = capsule ? PyCFunction_NewEx(&function->definition, capsule, nullptr) : nullptr;
  Py_DecRef(capsule);
  return made;
}

// op(name, otherwise): the op of this name as a function.
PyObject* op(PyObject*, PyObject* arguments) {
  HANDLE_TH_ERRORS
  const char* given = nullptr;
  PyObject* otherwise = nullptr;
  if (!PyArg_ParseTuple(arguments, "sO", &given, &otherwise)) return nullptr;
  const std::string name = given;
  const OperatorHandle plain = find(name);
  const bool in_place = name.back() == '_';
  const NodeSpec& spec = ops().at(name.substr(0, name.size() - in_place));
  return object_of(new OpFunction(name, otherwise, {spec, in_place}, plain));
  END_HANDLE_TH_ERRORS
}

// question(name, otherwise): the function of this name, which is `otherwise` in Python.
PyObject* question(PyObject*, PyObject* arguments) {
  static const std::unordered_map<std::string, PyObject* (*)(Given)> questions = {
      {"takes_in_eager_mode", &questions::takes_in_eager_mode},
      {"accepts", &questions::accepts},
      {"rounded", &questions::rounded},
      {"contiguous", &questions::contiguous},
      {"weights_fit", &questions::weights_fit},
      {"softmax_dtype", &questions::softmax_dtype},
      {"draw_seed", &questions::draw_seed},
  };
  HANDLE_TH_ERRORS
  const char* name = nullptr;
  PyObject* otherwise = nullptr;
  if (!PyArg_ParseTuple(arguments, "sO", &name, &otherwise)) return nullptr;
  return object_of(new Question(name, otherwise, questions.at(name)));
  END_HANDLE_TH_ERRORS
}

}  // namespace
}  // namespace fastact

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__calls() {
  static PyMethodDef functions[] = {{"op", &fastact::op, METH_VARARGS, nullptr},
                                    {"question", &fastact::question, METH_VARARGS, nullptr},
                                    {nullptr, nullptr, 0, nullptr}};
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_calls", nullptr, -1, functions, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
