// One frame of the alignment's forward pass, written once; each align_<isa>.cpp instantiates it for its
// vectors. The step is a plain loop, which compilers vectorise.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "align/align_table.h"
#include "base/compiler.h"
#include "base/vec_exp.h"

namespace ctcspeech {
namespace {

// Sums of 16 lanes, whatever the width of V.
template <class V>
FrameNorm frame_norm(const typename V::Real* x, int64_t C) {
  using Real = typename V::Real;
  constexpr int W = V::W, kVectors = 16 / W;
  constexpr Real kNone = -std::numeric_limits<Real>::infinity();
  V lane[kVectors];
  const int64_t whole = C - C % 16;
  const auto rest = [&](int k) {  // the classes after the last whole 16, filled up
    const int64_t first = whole + k * W, left = C - first;
    const int count = static_cast<int>(left < 0 ? 0 : left < W ? left : W);
    return count == 0 ? V::set(kNone) : V::load_some(x + first, count, kNone);
  };
  for (int k = 0; k < kVectors; ++k) lane[k] = V::max(rest(k), V::set(kNone));  // NaN: -inf
  for (int64_t c = 0; c < whole; c += 16)
    for (int k = 0; k < kVectors; ++k) lane[k] = V::max(V::loadu(x + c + k * W), lane[k]);
  Real best = kNone;
  for (int k = 0; k < kVectors; ++k) {
    const Real largest = lane[k].largest();
    best = largest > best ? largest : best;
  }
  if (!(best > kNone)) {
    bool has_nan = false;
    for (int64_t c = 0; c < C; ++c) has_nan |= x[c] != x[c];
    return {static_cast<double>(best), 0.0, has_nan};
  }
  const V shift = V::set(best);
  for (int k = 0; k < kVectors; ++k) lane[k] = exp_nonpositive(V::sub(rest(k), shift));
  for (int64_t c = 0; c < whole; c += 16)
    for (int k = 0; k < kVectors; ++k)
      lane[k] = V::add(lane[k], exp_nonpositive(V::sub(V::loadu(x + c + k * W), shift)));
  alignas(64) Real lanes[16];
  for (int k = 0; k < kVectors; ++k) lane[k].store(lanes + k * W);
  double sum = 0;
  for (int k = 0; k < 16; ++k) sum += static_cast<double>(lanes[k]);
  return {static_cast<double>(best), std::log(sum), sum != sum};
}

template <class S>
void align_step(const AlignRow<S>& from, const AlignRow<S>& to, const int32_t* __restrict classes,
                const S* __restrict skip, const S* __restrict scores, S blank_score, int64_t first,
                int64_t last) {
  const S* __restrict B = from.blanks;
  const S* __restrict A = from.labels;
  S* __restrict nB = to.blanks;
  S* __restrict nA = to.labels;
  for (int64_t j = first; j <= last; ++j) {
    const S before = A[j - 1];
    const S skipped = before + skip[j];
    S best = A[j] > B[j] ? A[j] : B[j];
    best = best > skipped ? best : skipped;
    nB[j] = blank_score + (B[j] > before ? B[j] : before);
    nA[j] = scores[classes[j]] + best;
  }
}

template <class FloatV, class DoubleV>
AlignTable make_align_table() {
  return {{frame_norm<FloatV>, align_step<float>, nullptr},
          {frame_norm<DoubleV>, align_step<double>, nullptr}};
}

}  // namespace
}  // namespace ctcspeech
