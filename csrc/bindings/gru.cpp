// Python's way to gru/gru.h, for ctcspeech/model/recurrent.py.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <vector>

#include "base/cpu.h"
#include "bindings/bindings.h"
#include "gru/gru.h"

namespace nb = nanobind;

namespace ctcspeech {
namespace {

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

// Checks everything by which the core could read or write outside its arrays.
struct Checked {
  GruShape shape;
  std::vector<int64_t> offsets;
  int64_t frames = 0;

  Checked(const Array<const int64_t, 1>& sizes, const Array<const float, 3>& weight, int isa) {
    for (size_t t = 0; t < sizes.shape(0); ++t) {
      if (sizes(t) < 1 || (t > 0 && sizes(t) > sizes(t - 1)))
        throw std::invalid_argument("gru: sizes must be at least 1 and must not grow");
      offsets.push_back(frames);
      frames += sizes(t);
    }
    const int64_t directions = weight.shape(0), hidden = weight.shape(2);
    if (directions < 1 || directions > 2 || hidden < 1 || int64_t(weight.shape(1)) != 3 * hidden)
      throw std::invalid_argument("gru: weight must be (1 or 2, 3H, H)");
    if (isa >= 0 && !isa_available(static_cast<Isa>(isa)))
      throw std::invalid_argument("gru: this machine does not have that instruction set");
    shape = {sizes.data(), offsets.data(), int64_t(sizes.shape(0)), directions, hidden};
  }

  template <class A>
  void expect(const A& array, int64_t units) const {
    if (int64_t(array.shape(0)) != frames || int64_t(array.shape(1)) != shape.directions ||
        int64_t(array.shape(2)) != units)
      throw std::invalid_argument("gru: the arrays' shapes do not agree");
  }
};

void forward(Array<float, 3> gates, Array<const float, 3> weight, Array<const float, 2> bias,
             Array<const int64_t, 1> sizes, Array<float, 3> hidden,
             std::optional<Array<float, 3>> candidate, int threads, int isa) {
  const Checked checked(sizes, weight, isa);
  const int64_t H = checked.shape.hidden;
  checked.expect(gates, 3 * H);
  checked.expect(hidden, H);
  if (candidate) checked.expect(*candidate, H);
  if (int64_t(bias.shape(0)) != checked.shape.directions || int64_t(bias.shape(1)) != H)
    throw std::invalid_argument("gru: bias must be (D, H)");
  nb::gil_scoped_release release;
  gru_forward(checked.shape, gates.data(), weight.data(), bias.data(), hidden.data(),
              candidate ? candidate->data() : nullptr, threads, isa);
}

void backward(Array<const float, 3> gates, Array<const float, 3> weight,
              Array<const int64_t, 1> sizes, Array<const float, 3> hidden,
              Array<const float, 3> candidate, Array<const float, 3> gradient,
              Array<float, 3> grad_gates, Array<float, 3> grad_candidate, Array<float, 3> before,
              int threads, int isa) {
  const Checked checked(sizes, weight, isa);
  const int64_t H = checked.shape.hidden;
  for (const auto* array : {&hidden, &candidate, &gradient}) checked.expect(*array, H);
  for (const auto* array : {&grad_candidate, &before}) checked.expect(*array, H);
  checked.expect(gates, 3 * H);
  checked.expect(grad_gates, 3 * H);
  nb::gil_scoped_release release;
  gru_backward(checked.shape, gates.data(), weight.data(), hidden.data(), candidate.data(),
               gradient.data(), grad_gates.data(), grad_candidate.data(), before.data(), threads,
               isa);
}

}  // namespace

void bind_gru(nb::module_& m) {
  m.def("gru_forward", &forward, nb::arg("gates"), nb::arg("weight"), nb::arg("bias"),
        nb::arg("sizes"), nb::arg("hidden"), nb::arg("candidate").none(), nb::arg("threads"),
        nb::arg("isa") = -1);
  m.def("gru_backward", &backward, nb::arg("gates"), nb::arg("weight"), nb::arg("sizes"),
        nb::arg("hidden"), nb::arg("candidate"), nb::arg("gradient"), nb::arg("grad_gates"),
        nb::arg("grad_candidate"), nb::arg("before"), nb::arg("threads"), nb::arg("isa") = -1);
}

}  // namespace ctcspeech
