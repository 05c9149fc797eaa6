// ctcspeech._core.NeuralModel: see ctcspeech/lm/neural.py, which checks shapes and values.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <vector>

#include "bindings/bindings.h"
#include "neural/lstm.h"

namespace nb = nanobind;

namespace ctcspeech {

using neural::Lstm;

namespace {

using Array = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Labels = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::object to_numpy(std::vector<float>&& values) {
  auto* kept = new std::vector<float>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  const size_t size = kept->size();
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<1>>(kept->data(), {size}, owner));
}

// `layers` has for each layer input (4H, width), recurrent (4H, H) and bias (4H).
void construct(Lstm* self, const Array& embedding, const std::vector<Array>& layers,
               const Array& output, const Array& output_bias) {
  neural::Shape shape;
  shape.labels = static_cast<int64_t>(embedding.shape(0));
  shape.embedding = static_cast<int64_t>(embedding.shape(1));
  shape.hidden = static_cast<int64_t>(output.shape(1));
  shape.layers = static_cast<int64_t>(layers.size() / 3);
  std::vector<neural::LayerWeights> weights;
  for (size_t k = 0; k + 2 < layers.size(); k += 3)
    weights.push_back({layers[k].data(), layers[k + 1].data(), layers[k + 2].data()});
  new (self) Lstm(shape, embedding.data(), weights, output.data(), output_bias.data());
}

void check_label(const Lstm& lstm, int32_t label) {
  if (label < 0 || label >= lstm.shape().labels) throw nb::index_error("no such label");
}

// ln P of each label given those before it, from the start of a sentence.
nb::object score(const Lstm& lstm, const Labels& labels) {
  const size_t count = labels.shape(0);
  for (size_t i = 0; i < count; ++i) check_label(lstm, labels.data()[i]);
  std::vector<float> result(count);
  {
    nb::gil_scoped_release release;
    const size_t size = static_cast<size_t>(lstm.state_size());
    std::vector<float> states[2] = {std::vector<float>(size), std::vector<float>(size)};
    std::vector<float> ln_p(static_cast<size_t>(lstm.shape().labels));
    int32_t before = neural::kEnd;
    for (size_t i = 0; i < count; ++i) {
      const float* from = i ? states[i % 2].data() : nullptr;
      float *to = states[(i + 1) % 2].data(), *out = ln_p.data();
      lstm.step(&from, &before, 1, &to, &out);
      before = labels.data()[i];
      result[i] = ln_p[static_cast<size_t>(before)];
    }
  }
  return to_numpy(std::move(result));
}

// (the state after a label, ln P of each label that may follow)
nb::tuple step(const Lstm& lstm, const nb::object& state, int32_t label) {
  check_label(lstm, label);
  const float* from = nullptr;
  if (!state.is_none()) {
    const Array array = nb::cast<Array>(state);
    if (array.size() != static_cast<size_t>(lstm.state_size()))
      throw nb::value_error("a state of another model");
    from = array.data();
  }
  std::vector<float> next(static_cast<size_t>(lstm.state_size()));
  std::vector<float> ln_p(static_cast<size_t>(lstm.shape().labels));
  float *to = next.data(), *out = ln_p.data();
  lstm.step(&from, &label, 1, &to, &out);
  return nb::make_tuple(to_numpy(std::move(next)), to_numpy(std::move(ln_p)));
}

// The same for several states at once: (N, state), (N) -> (N, state), (N, labels), both flat.
nb::tuple step_many(const Lstm& lstm, const Array& states, const Labels& labels) {
  const size_t count = labels.shape(0), size = static_cast<size_t>(lstm.state_size());
  const size_t classes = static_cast<size_t>(lstm.shape().labels);
  if (states.size() != count * size) throw nb::value_error("states must be (N, state)");
  for (size_t i = 0; i < count; ++i) check_label(lstm, labels.data()[i]);
  std::vector<float> next(count * size), ln_p(count * classes);
  std::vector<const float*> from;
  std::vector<float*> to, out;
  for (size_t i = 0; i < count; ++i) {
    from.push_back(states.data() + i * size);
    to.push_back(next.data() + i * size);
    out.push_back(ln_p.data() + i * classes);
  }
  lstm.step(from.data(), labels.data(), static_cast<int64_t>(count), to.data(), out.data());
  return nb::make_tuple(to_numpy(std::move(next)), to_numpy(std::move(ln_p)));
}

}  // namespace

void bind_neural(nb::module_& m) {
  nb::class_<Lstm>(m, "NeuralModel")
      .def("__init__", &construct, nb::arg("embedding"), nb::arg("layers"), nb::arg("output"),
           nb::arg("output_bias"))
      .def_prop_ro("num_labels", [](const Lstm& lstm) { return lstm.shape().labels; })
      .def("score", &score, nb::arg("labels"))
      .def("step", &step, nb::arg("state").none(), nb::arg("label"))
      .def("step_many", &step_many, nb::arg("states"), nb::arg("labels"));
}

}  // namespace ctcspeech
