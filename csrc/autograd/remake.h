// Tensors that are made again in backward instead of being kept, for fastact/recompute.py. While that is on, the
// outputs of some ops are remembered by their storages, with what made them. Where a node saves one of them, the hook
// on saved tensors keeps its recipe, if all that the op reads is kept anyway.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <cstring>
#include <mutex>
#include <unordered_map>

#include "autograd/plain.h"

namespace fastact {

using torch::autograd::SavedVariable;

// Where a tensor's elements lie in its storage.
struct Place {
  at::ScalarType dtype;
  c10::SmallVector<int64_t, 5> sizes, strides;
  int64_t offset;

  explicit Place(const Tensor& tensor)
      : dtype(tensor.scalar_type()),
        sizes(tensor.sizes().begin(), tensor.sizes().end()),
        strides(tensor.strides().begin(), tensor.strides().end()),
        offset(tensor.storage_offset()) {}

  // The tensor in this place of a storage, without a history.
  Tensor in(c10::Storage storage) const {
    const DispatchKey key = storage.device().is_cuda() ? DispatchKey::CUDA : DispatchKey::CPU;
    Tensor found = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(key),
                                                            c10::scalarTypeToTypeMeta(dtype));
    found.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
    return found;
  }
  int64_t bytes() const { return c10::multiply_integers(sizes) * c10::elementSize(dtype); }
  size_t bytes_needed() const {
    return at::detail::computeStorageNbytes(sizes, strides, c10::elementSize(dtype), offset);
  }
};

// A tensor's version and what counts it. Views share the counter, but for those that torch calls unsafe.
struct Version {
  c10::VariableVersion counter{};
  uint32_t number = 0;

  Version() = default;
  explicit Version(const Tensor& tensor)
      : counter(torch::autograd::impl::version_counter(tensor)), number(counter.current_version()) {}

  bool is_current() const { return counter.current_version() == number; }
  bool operator==(const Version& other) const {
    static_assert(sizeof(counter) == sizeof(void*));  // it has no comparison, but is a pointer
    return number == other.number && std::memcmp(&counter, &other.counter, sizeof(counter)) == 0;
  }
};

// Computes the first result of an op from its arguments.
using Make = Tensor (*)(const OperatorHandle&, Stack);
inline Tensor run_again(const OperatorHandle& op, Stack arguments) {
  op.callBoxed(&arguments);
  return arguments[0].toTensor();
}

// A tensor that can be made again, and what its consumers of one backward pass share.
struct Remade : c10::intrusive_ptr_target {
  struct Source {
    size_t argument;
    Place place;
    c10::intrusive_ptr<Remade> from{};  // or:
    c10::Storage storage{};
    Version version{};
  };
  Make make;
  OperatorHandle op;
  std::vector<IValue> arguments;  // but the sources
  std::vector<Source> sources;
  Place place;
  c10::Device device;
  std::optional<OperatorHandle> in_place;

  Remade(Make make, OperatorHandle op, std::vector<IValue> arguments, Place place, c10::Device device)
      : make(make), op(std::move(op)), arguments(std::move(arguments)), place(std::move(place)), device(device) {
    const c10::OperatorName& name = this->op.operator_name();
    if (make == run_again) in_place = c10::Dispatcher::singleton().findSchema({name.name + "_", name.overload_name});
  }

  // While recipes still point here weakly, nothing else does.
  void release_resources() override {
    arguments.clear();
    sources.clear();
    held.reset();
  }

  // The whole tensor. It is held for as long as consumers of this backward pass have not had it. Ops run without the
  // lock: some wait for Python, which may wait for the lock.
  Tensor whole(bool for_consumer) {
    const auto stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
    Tensor found, freed, freed_before;  // after the lock: one that Python knows waits for Python, which may wait for it
    {
      std::lock_guard<std::mutex> lock(mutex);
      freed_before = begin_round(torch::autograd::get_current_graph_task_id());
      taken += for_consumer;
      if (held.defined() && held_on == stream) found = held;
    }
    if (!found.defined()) found = run();
    std::lock_guard<std::mutex> lock(mutex);
    if (round < 0 || taken >= consumers) {
      freed = std::move(held);
    } else if (!held.defined()) {
      held = found;
      held_on = stream;
      // At the end of this pass at the latest: a consumer may have no part in it.
      torch::autograd::Engine::get_default_engine().queue_callback(
          [weak = c10::weak_intrusive_ptr<Remade>(c10::intrusive_ptr<Remade>::unsafe_reclaim_from_nonowning(this))] {
            if (const auto remade = weak.lock()) remade->drop();
          });
    }
    return found;
  }

  std::string names() const {
    std::string found = op.operator_name().name;
    for (const Source& source : sources)
      if (source.from) found += " " + source.from->names();
    return found;
  }
  void list_sources(std::vector<Tensor>& found) const {
    for (const IValue& each : arguments)
      if (each.isTensor() && each.toTensor().defined()) found.push_back(each.toTensor());
    for (const Source& source : sources) {
      if (source.from) {
        source.from->list_sources(found);
      } else {
        found.push_back(source.place.in(source.storage));
      }
    }
  }

  void add_consumer() {
    std::lock_guard<std::mutex> lock(mutex);
    ++consumers;
  }
  void remove_consumer(int had_it_in) {
    Tensor freed;
    std::lock_guard<std::mutex> lock(mutex);
    --consumers;
    if (had_it_in == round && round >= 0) --taken;
    if (consumers <= taken) freed = std::move(held);
  }

 private:
  std::mutex mutex;
  int consumers = 0;
  int round = -1, taken = 0;  // the backward pass, by torch's number, and how many consumers had it there
  Tensor held;
  c10::Stream held_on{c10::Stream::DEFAULT, c10::Device(c10::kCPU)};

  // Returns what is held from another one.
  Tensor begin_round(int task) {
    if (task == round) return {};
    round = task;
    taken = 0;
    return std::move(held);
  }
  void drop() {
    Tensor freed;
    std::lock_guard<std::mutex> lock(mutex);
    freed = std::move(held);
  }

  Tensor run() const {
    Stack stack = arguments;
    for (const Source& source : sources) {
      if (source.from) {
        stack[source.argument] = source.place.in(source.from->whole(false).storage());
        continue;
      }
      TORCH_CHECK(source.version.is_current(),
                  "one of the variables needed for gradient computation has been modified by an inplace operation: "
                  "fastact.recompute was to make the output of ",
                  op.operator_name(), " again from a tensor that is at version ",
                  source.version.counter.current_version(), "; expected version ", source.version.number, " instead.");
      TORCH_CHECK(source.place.bytes_needed() <= source.storage.nbytes(),
                  "fastact.recompute was to make the output of ", op.operator_name(),
                  " again from a tensor whose memory has been freed since.");
      stack[source.argument] = source.place.in(source.storage);
    }
    const at::AutoDispatchBelowADInplaceOrView below;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Within guard;
    if (Tensor first = stack[0].isTensor() ? stack[0].toTensor() : Tensor(); is_written_over(first)) {
      in_place->callBoxed(&stack);
      return first;
    }
    Tensor made = make(op, std::move(stack));
    TORCH_INTERNAL_ASSERT(made.sizes() == c10::IntArrayRef(place.sizes));
    // In place, the result may have had a wider dtype first.
    if (made.strides() != c10::IntArrayRef(place.strides) || made.storage_offset() != place.offset ||
        made.scalar_type() != place.dtype)
      made = at::empty_strided(place.sizes, place.strides, made.options().dtype(place.dtype)).copy_(made);
    return made;
  }
  // Whether the op may run in place: its first argument was made for it alone, and is what the result is to be.
  bool is_written_over(const Tensor& first) const {
    return in_place && !sources.empty() && sources[0].argument == 0 && sources[0].from &&
           first.storage().use_count() == 1 && first.scalar_type() == place.dtype &&
           first.sizes() == c10::IntArrayRef(place.sizes) && first.strides() == c10::IntArrayRef(place.strides) &&
           first.storage_offset() == place.offset;
  }
};

// What a consumer keeps in a tensor's place. Python is given an empty tensor whose storage owns it: an object of a
// class of its own takes torch's bindings 8 us to hand on, by way of an exception, and up to 100 us between large ops.
class Packed {
 public:
  Packed(c10::intrusive_ptr<Remade> from, Place place) : from(std::move(from)), place(std::move(place)) {
    this->from->add_consumer();
  }
  ~Packed() { from->remove_consumer(had_it_in); }

  static Tensor token(std::unique_ptr<Packed> packed) {
    c10::DataPtr owner(nullptr, packed.release(), &destroy, at::kCPU);
    c10::Storage storage(c10::Storage::use_byte_size_t{}, 0, std::move(owner), nullptr, false);
    return at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(DispatchKey::CPU),
                                                    caffe2::TypeMeta::Make<uint8_t>());
  }
  static Packed& of(const Tensor& token) {
    TORCH_CHECK(token.has_storage() && token.storage().data_ptr().get_deleter() == &destroy,
                "fastact: a tensor that was packed by fastact.recompute was expected");
    return *static_cast<Packed*>(token.storage().data_ptr().get_context());
  }

  Tensor unpack() {
    const int round = torch::autograd::get_current_graph_task_id();
    const bool is_first = had_it_in.exchange(round) != round;
    return place.in(from->whole(is_first).storage());
  }

  // The names of the ops that run, the last one first, and the tensors that they read.
  std::string op() const { return from->names(); }
  std::vector<Tensor> sources() const {
    std::vector<Tensor> found;
    from->list_sources(found);
    return found;
  }

 private:
  const c10::intrusive_ptr<Remade> from;
  const Place place;
  std::atomic<int> had_it_in{-1};

  static void destroy(void* packed) { delete static_cast<Packed*>(packed); }
};

// Where a node keeps a mask, until its output turns out to be kept anyway; none once the node is gone.
struct MaskKeeper {
  std::mutex mutex;
  std::function<void(SavedVariable& output)> swap{};
};

// A call of an op that is about to run.
struct Call {
  Make make;
  OperatorHandle op;
  std::vector<IValue> arguments;
  size_t own;                                           // the arguments from here on are nobody else's
  std::vector<std::shared_ptr<struct Recipe>> recipes;  // of the arguments that are remembered
};

// How an output was made, while nobody has kept it. Nothing here keeps large memory alive. Nor is there a weak pointer
// to a storage that dies soon: the rest of it would stay behind the memory, where malloc then cannot use that again.
struct Recipe {
  struct Source {
    size_t argument;
    Place place;
    bool is_parameter;
    Version version;
    std::shared_ptr<Recipe> recipe{};  // or:
    c10::weak_intrusive_ptr<c10::StorageImpl> storage{c10::intrusive_ptr<c10::StorageImpl>()};
  };
  Make make;
  OperatorHandle op;
  std::vector<IValue> arguments;  // but the sources; given to `remade`
  Place place;                    // of the output
  c10::Device device;
  std::vector<Source> sources{};
  int depth = 1;
  c10::weak_intrusive_ptr<Remade> remade{c10::intrusive_ptr<Remade>()};
};

// The outputs that this thread's open `fastact.recompute` remembers, by their storages.
class Registry {
 public:
  explicit Registry(int64_t least_bytes) : least_bytes(least_bytes) {}

  // This thread's; none where nothing is to be made again.
  static std::unique_ptr<Registry>& current() {
    static thread_local std::unique_ptr<Registry> registry;
    return registry;
  }
  static Registry* open() { return current() && !in_transform() ? current().get() : nullptr; }

  // Notes an op that is about to run; nothing if it could not run so again.
  std::optional<Call> note(const OperatorHandle& op, Arguments arguments, Make make = run_again,
                           size_t own = SIZE_MAX) const {
    Call call{make, op, arguments.vec(), std::min(own, arguments.size()), {}};
    call.recipes.resize(call.own);
    int64_t most_bytes = 0;
    for (size_t i = 0; i < call.own; ++i) {
      if (!is_source(arguments[i])) continue;
      const Tensor& tensor = arguments[i].toTensor();
      if (!can_be_found(tensor)) return {};
      most_bytes = std::max<int64_t>(most_bytes, tensor.nbytes());
      if (const Entry* entry = find(tensor)) call.recipes[i] = entry->recipe;
    }
    if (most_bytes < least_bytes) return {};
    return call;
  }

  // Whether this is a tensor of the kind and size that is remembered.
  bool takes(const Tensor& tensor) const {
    return can_be_found(tensor) && static_cast<int64_t>(tensor.nbytes()) >= least_bytes &&
           tensor.storage_offset() == 0 && tensor.is_non_overlapping_and_dense() &&
           tensor.nbytes() == tensor.storage().nbytes();
  }

  // From now on the output is what the call returned, or nobody knows what if there is none.
  void remember(const Tensor& output, std::optional<Call> call, std::shared_ptr<MaskKeeper> keeper = nullptr) {
    if (!can_be_found(output)) return;
    std::shared_ptr<Recipe> recipe = call && takes(output) ? recipe_of(std::move(*call), output) : nullptr;
    c10::StorageImpl* const key = output.storage().unsafeGetStorageImpl();
    if ((!recipe && !keeper) || !takes(output)) {
      outputs.erase(key);
      return;
    }
    sweep();
    outputs.insert_or_assign(key, Entry{Place(output), Version(output), std::move(recipe), std::move(keeper)});
  }

  // What to keep in the place of a tensor that a node saves; null if that is the tensor.
  std::unique_ptr<Packed> pack(const Tensor& tensor) {
    if (!can_be_found(tensor)) return {};
    if (!is_kept(tensor.storage().unsafeGetStorageImpl())) {
      if (auto packed = remade(tensor)) return packed;
    }
    keep(tensor);
    const auto found = outputs.find(tensor.storage().unsafeGetStorageImpl());
    if (found != outputs.end() && found->second.version == Version(tensor) && found->second.keeper) {
      Entry& entry = found->second;
      const std::shared_ptr<MaskKeeper> keeper = std::move(entry.keeper);  // which saves the output, and comes here
      const Tensor output = entry.place.in(tensor.storage());
      output.unsafeGetTensorImpl()->set_version_counter(entry.version.counter);
      SavedVariable saved(output, false);  // calls hooks, so before the lock, and the mask goes after it
      std::lock_guard<std::mutex> lock(keeper->mutex);
      if (keeper->swap) keeper->swap(saved);
    }
    return {};
  }

  // The same without taking note of what is kept.
  std::unique_ptr<Packed> remade(const Tensor& tensor) const {
    if (!can_be_found(tensor)) return {};
    const Entry* entry = find(tensor);
    if (!entry || !entry->recipe || tensor.scalar_type() != entry->place.dtype) return {};
    const int64_t more = bytes_to_keep(*entry->recipe);
    if (more < 0 || kLeastGain * more > static_cast<int64_t>(tensor.storage().nbytes())) return {};
    return std::make_unique<Packed>(hold(*entry->recipe), Place(tensor));
  }

 private:
  struct Entry {
    Place place;
    Version version;  // by its counter the tensor is known, if another one comes to have the storage's address
    std::shared_ptr<Recipe> recipe;
    std::shared_ptr<MaskKeeper> keeper;
  };
  // The longest chain: convolution, normalisation, activation, gate, dropout, cast, copy have 6.
  static constexpr int kMostOps = 8;
  static constexpr int kLeastGain = 4;  // bytes given up for each that is kept

  const int64_t least_bytes;
  std::unordered_map<c10::StorageImpl*, Entry> outputs;
  // What is kept as it is, in which versions.
  struct KeptStorage {
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    c10::SmallVector<Version, 1> versions;
  };
  std::unordered_map<c10::StorageImpl*, KeptStorage> kept;
  size_t next_sweep = 16;

  static bool can_be_found(const Tensor& tensor) {
    return tensor.defined() && (tensor.is_cpu() || tensor.is_cuda()) && tensor.has_storage() && is_plain(tensor) &&
           !tensor.key_set().has(DispatchKey::Python) && !tensor.is_inference();
  }
  static bool is_source(const IValue& argument) {
    return argument.isTensor() && argument.toTensor().defined() &&
           !argument.toTensor().unsafeGetTensorImpl()->is_wrapped_number();
  }
  const Entry* find(const Tensor& tensor) const {
    const auto found = outputs.find(tensor.storage().unsafeGetStorageImpl());
    return found != outputs.end() && Version(tensor) == found->second.version ? &found->second : nullptr;
  }
  bool is_kept(c10::StorageImpl* storage) const {
    const auto found = kept.find(storage);
    return found != kept.end() && !found->second.storage.expired();
  }
  void keep(const Tensor& tensor) {
    sweep();
    const c10::Storage& storage = tensor.storage();
    auto& entry =
        kept.try_emplace(storage.unsafeGetStorageImpl(), KeptStorage{storage.getWeakStorageImpl(), {}}).first->second;
    const Version version(tensor);
    if (std::find(entry.versions.begin(), entry.versions.end(), version) == entry.versions.end())
      entry.versions.push_back(version);
  }
  // Whether this version is kept, so that nobody may write it before backward: the node that keeps it could not run.
  bool is_guarded(c10::StorageImpl* storage, const Version& version) const {
    const auto found = kept.find(storage);
    if (found == kept.end() || found->second.storage.expired()) return false;
    const auto& versions = found->second.versions;
    return std::find(versions.begin(), versions.end(), version) != versions.end();
  }

  // Null if the output cannot be made again from what is kept by now, or what is small.
  std::shared_ptr<Recipe> recipe_of(Call call, const Tensor& output) const {
    auto recipe =
        std::make_shared<Recipe>(Recipe{call.make, call.op, std::move(call.arguments), Place(output), output.device()});
    for (size_t i = 0; i < call.own; ++i) {
      IValue& argument = recipe->arguments[i];
      if (!is_source(argument)) continue;
      const Tensor tensor = std::move(argument).toTensor();
      argument = IValue();
      c10::StorageImpl* const storage = tensor.storage().unsafeGetStorageImpl();
      Recipe::Source source{i, Place(tensor), tensor.requires_grad() && tensor.is_leaf(), Version(tensor)};
      const bool is_small = kLeastGain * source.place.bytes() <= static_cast<int64_t>(output.nbytes());
      if (call.recipes[i] && !is_guarded(storage, source.version)) {
        source.recipe = call.recipes[i];
        recipe->depth = std::max(recipe->depth, source.recipe->depth + 1);
      } else if (source.is_parameter || is_small || is_guarded(storage, source.version)) {
        source.storage = tensor.storage().getWeakStorageImpl();
      } else {
        return nullptr;
      }
      recipe->sources.push_back(std::move(source));
    }
    return recipe->depth <= kMostOps ? recipe : nullptr;
  }

  bool is_free(const Recipe::Source& source) const {
    return source.is_parameter || is_guarded(source.storage._unsafe_get_target(), source.version);
  }
  // The bytes that have to be kept for the recipe beside what is kept anyway; -1 if something is gone.
  int64_t bytes_to_keep(const Recipe& recipe) const {
    if (recipe.remade.lock()) return 0;
    if (recipe.arguments.empty()) return -1;
    int64_t bytes = 0;
    for (const Recipe::Source& source : recipe.sources) {
      if (source.recipe) {
        const int64_t more = bytes_to_keep(*source.recipe);
        if (more < 0) return -1;
        bytes += more;
      } else if (source.storage.expired() || !source.version.is_current()) {
        return -1;
      } else if (!is_free(source)) {
        bytes += source.place.bytes();
      }
    }
    return bytes;
  }
  c10::intrusive_ptr<Remade> hold(Recipe& recipe) const {
    if (auto remade = recipe.remade.lock()) return remade;
    auto remade =
        c10::make_intrusive<Remade>(recipe.make, recipe.op, std::move(recipe.arguments), recipe.place, recipe.device);
    for (const Recipe::Source& source : recipe.sources) {
      remade->sources.push_back({source.argument, source.place});
      Remade::Source& held = remade->sources.back();
      if (source.recipe) {
        held.from = hold(*source.recipe);
        continue;
      }
      held.storage = c10::Storage(source.storage.lock());
      held.version = source.version;
      if (is_free(source)) continue;
      // Small, and its owner's to write: a copy.
      const at::AutoDispatchBelowADInplaceOrView below;
      const Tensor copy = source.place.in(held.storage).clone(at::MemoryFormat::Contiguous);
      held.place = Place(copy);
      held.storage = copy.storage();
      held.version = Version(copy);
    }
    recipe.remade = c10::weak_intrusive_ptr<Remade>(remade);
    return remade;
  }

  // Forgets what is gone, now and then.
  void sweep() {
    if (outputs.size() + kept.size() < next_sweep) return;
    for (auto it = outputs.begin(); it != outputs.end();)
      it = it->second.version.counter.unique() ? outputs.erase(it) : std::next(it);
    for (auto it = kept.begin(); it != kept.end();) it = it->second.storage.expired() ? kept.erase(it) : std::next(it);
    next_sweep = std::max<size_t>(16, 2 * (outputs.size() + kept.size()));
  }
};

}  // namespace fastact
