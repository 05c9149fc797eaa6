// Python's way to align/align.h. Shapes and values are checked in ctcspeech/align/forced.py; what could make the
// core read outside its input is checked here as well.
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "align/align.h"
#include "base/cpu.h"
#include "base/parallel.h"
#include "bindings/bindings.h"

namespace nb = nanobind;

namespace ctcspeech {
namespace {

template <class T, class... Shape>
using Array = nb::ndarray<T, nb::device::cpu, Shape...>;

using Integers = Array<const int64_t, nb::ndim<1>, nb::c_contig>;

template <class S>
void align_batch(Array<const S, nb::ndim<3>> emissions, Integers labels, Integers offsets,
                 Integers lengths, int64_t blank, int64_t band, double wildcard_score, int threads, int isa,
                 Array<int32_t, nb::ndim<2>, nb::c_contig> states,
                 Array<S, nb::ndim<2>, nb::c_contig> log_probs,
                 Array<double, nb::ndim<1>, nb::c_contig> scores,
                 Array<int32_t, nb::ndim<1>, nb::c_contig> status) {
  const int64_t N = emissions.shape(0), T = emissions.shape(1), C = emissions.shape(2);
  const bool shapes_agree =
      (emissions.stride(2) == 1 || N * T * C <= 1) && int64_t(offsets.shape(0)) == N + 1 &&
      int64_t(lengths.shape(0)) == N &&
      int64_t(states.shape(0)) == N && int64_t(states.shape(1)) == T &&
      int64_t(log_probs.shape(0)) == N && int64_t(log_probs.shape(1)) == T &&
      int64_t(scores.shape(0)) == N && int64_t(status.shape(0)) == N && blank >= 0 && blank < C;
  if (!shapes_agree) throw std::invalid_argument("align_batch: the arrays' shapes do not agree");
  if (isa >= 0 && !isa_available(static_cast<Isa>(isa)))
    throw std::invalid_argument("align_batch: this machine does not have that instruction set");
  for (int64_t n = 0; n < N; ++n)
    if (offsets(n) < 0 || offsets(n) > offsets(n + 1) ||
        offsets(n + 1) > int64_t(labels.shape(0)) || lengths(n) < 0 || lengths(n) > T)
      throw std::invalid_argument("align_batch: an offset or a length is out of range");
  for (size_t i = 0; i < labels.shape(0); ++i)
    if (labels(i) < kWildcard || labels(i) >= C)
      throw std::invalid_argument("align_batch: a label is out of range");

  std::vector<int64_t> order(N);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return lengths(a) * (offsets(a + 1) - offsets(a)) > lengths(b) * (offsets(b + 1) - offsets(b));
  });
  nb::gil_scoped_release release;
  parallel_for(N, threads, [&](int64_t i, int) {
    const int64_t n = order[i];
    const AlignProblem<S> problem{emissions.data() + n * emissions.stride(0),
                                  emissions.stride(1),
                                  lengths(n),
                                  C,
                                  labels.data() + offsets(n),
                                  offsets(n + 1) - offsets(n),
                                  blank,
                                  band,
                                  static_cast<S>(wildcard_score)};
    status(n) = static_cast<int32_t>(
        align(problem, states.data() + n * T, log_probs.data() + n * T, scores.data() + n, isa));
  });
}

}  // namespace

template <class S>
void define_align_batch(nb::module_& m) {
  m.def("align_batch", &align_batch<S>, nb::arg("emissions"), nb::arg("labels"),
        nb::arg("offsets"), nb::arg("lengths"), nb::arg("blank"), nb::arg("band"),
        nb::arg("wildcard_score"), nb::arg("threads"), nb::arg("isa"), nb::arg("states"),
        nb::arg("log_probs"), nb::arg("scores"), nb::arg("status"));
}

void bind_align(nb::module_& m) {
  nb::enum_<AlignStatus>(m, "AlignStatus", nb::is_arithmetic(), "Of align/align.h.")
      .value("OK", AlignStatus::kOk)
      .value("INFEASIBLE", AlignStatus::kInfeasible)
      .value("NOT_FINITE", AlignStatus::kNan)
      .value("NO_MEMORY", AlignStatus::kNoMemory);
  define_align_batch<float>(m);
  define_align_batch<double>(m);
}

}  // namespace ctcspeech
