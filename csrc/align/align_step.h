// One frame of the alignment's forward pass: written so that the compiler vectorises it for the
// instruction set of the file that includes it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace ctcspeech {

// A frame's largest score, and the logarithm of the sum of exp(score - largest).
struct FrameNorm {
  double best;
  double log_sum;
  bool has_nan;
};

// The row of states: blanks[j] is B[j], labels[j] is A[j]. labels[-1] is readable and -inf.
template <class S>
struct AlignRow {
  S* blanks;
  S* labels;
};

// Computes B'[first..last] and A'[first..last] of `to` from `from`. `classes[j]` is the class of
// label j in `scores`, `skip[j]` 0 where label j may follow label j-1 directly, else -inf.
template <class S>
using AlignStep = void (*)(const AlignRow<S>& from, const AlignRow<S>& to, const int32_t* classes,
                           const S* skip, const S* scores, S blank_score, int64_t first,
                           int64_t last);

// exp(x) for x <= 0: 2^n times a polynomial on |r| <= ln(2) / 2, relative error 2e-7 (Cephes' scheme:
// Cody-Waite reduction, degree 6). Below -87 it returns exp(-87).
inline float exp_negative(float x) {
  x = x > -87.0f ? x : -87.0f;
  const float shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &p, sizeof bits);
  bits += static_cast<int32_t>(n) << 23;
  std::memcpy(&p, &bits, sizeof p);
  return p;
}
inline double exp_negative(double x) { return std::exp(x); }

#define CTCSPEECH_DEFINE_FRAME_NORM(name)                                                      \
  template <class S>                                                                           \
  FrameNorm name(const S* __restrict x, int64_t C) {                                           \
    constexpr int kLanes = 16;                                                                 \
    constexpr S kNone = -std::numeric_limits<S>::infinity();                                   \
    S lane[kLanes], rest[kLanes];  /* rest: the classes after the last whole vector */         \
    int nan_lane[kLanes] = {};                                                                 \
    const int64_t whole = C - C % kLanes;                                                      \
    for (int k = 0; k < kLanes; ++k) lane[k] = rest[k] = kNone;                                \
    for (int64_t c = whole; c < C; ++c) rest[c - whole] = x[c];                                \
    for (int64_t c = 0; c < whole; c += kLanes)                                                \
      for (int k = 0; k < kLanes; ++k) {                                                       \
        nan_lane[k] |= x[c + k] != x[c + k];                                                   \
        lane[k] = x[c + k] > lane[k] ? x[c + k] : lane[k];                                     \
      }                                                                                        \
    for (int k = 0; k < kLanes; ++k) {                                                         \
      nan_lane[k] |= rest[k] != rest[k];                                                       \
      lane[k] = rest[k] > lane[k] ? rest[k] : lane[k];                                         \
    }                                                                                          \
    S best = kNone;                                                                            \
    int has_nan = 0;                                                                           \
    for (int k = 0; k < kLanes; ++k) {                                                         \
      has_nan |= nan_lane[k];                                                                  \
      best = lane[k] > best ? lane[k] : best;                                                  \
      lane[k] = 0;                                                                             \
    }                                                                                          \
    if (has_nan || !(best > kNone)) return {double(best), 0.0, has_nan != 0};                  \
    for (int64_t c = 0; c < whole; c += kLanes)                                                \
      for (int k = 0; k < kLanes; ++k) lane[k] += exp_negative(x[c + k] - best);               \
    for (int k = 0; k < kLanes; ++k) lane[k] += exp_negative(rest[k] - best);                  \
    double sum = 0;                                                                            \
    for (int k = 0; k < kLanes; ++k) sum += double(lane[k]);                                   \
    return {double(best), std::log(sum), false};                                               \
  }

#define CTCSPEECH_DEFINE_ALIGN_STEP(name)                                                       \
  template <class S>                                                                            \
  void name(const AlignRow<S>& from, const AlignRow<S>& to, const int32_t* __restrict classes,  \
            const S* __restrict skip, const S* __restrict scores, S blank_score, int64_t first, \
            int64_t last) {                                                                     \
    const S* __restrict B = from.blanks;                                                        \
    const S* __restrict A = from.labels;                                                        \
    S* __restrict nB = to.blanks;                                                               \
    S* __restrict nA = to.labels;                                                               \
    for (int64_t j = first; j <= last; ++j) {                                                   \
      const S before = A[j - 1];                                                                \
      const S skipped = before + skip[j];                                                       \
      S best = A[j] > B[j] ? A[j] : B[j];                                                       \
      best = best > skipped ? best : skipped;                                                   \
      nB[j] = blank_score + (B[j] > before ? B[j] : before);                                    \
      nA[j] = scores[classes[j]] + best;                                                        \
    }                                                                                           \
  }

// Scores that align_step_avx512_few can look up: the classes, and two more (Aligner::scores_).
constexpr int64_t kFewClasses = 32;

#define CTCSPEECH_DECLARE_ALIGN_STEP(name)                                                     \
  template <class S>                                                                           \
  void name(const AlignRow<S>&, const AlignRow<S>&, const int32_t*, const S*, const S*, S,     \
            int64_t, int64_t);                                                                 \
  extern template void name<float>(const AlignRow<float>&, const AlignRow<float>&,             \
                                   const int32_t*, const float*, const float*, float, int64_t, \
                                   int64_t);                                                   \
  extern template void name<double>(const AlignRow<double>&, const AlignRow<double>&,          \
                                    const int32_t*, const double*, const double*, double,      \
                                    int64_t, int64_t);

// The same where all scores fit two vector registers: they are permuted, not gathered from memory.
// `scores` must be readable up to kFewClasses.
void align_step_avx512_few(const AlignRow<float>& from, const AlignRow<float>& to,
                           const int32_t* classes, const float* skip, const float* scores,
                           float blank_score, int64_t first, int64_t last);

#define CTCSPEECH_DECLARE_FRAME_NORM(name)                          \
  template <class S>                                                \
  FrameNorm name(const S*, int64_t);                                \
  extern template FrameNorm name<float>(const float*, int64_t);     \
  extern template FrameNorm name<double>(const double*, int64_t);

#define CTCSPEECH_INSTANTIATE_FRAME_NORM(name)               \
  template FrameNorm name<float>(const float*, int64_t);     \
  template FrameNorm name<double>(const double*, int64_t);

#define CTCSPEECH_INSTANTIATE_ALIGN_STEP(name)                                                  \
  template void name<float>(const AlignRow<float>&, const AlignRow<float>&, const int32_t*,     \
                            const float*, const float*, float, int64_t, int64_t);               \
  template void name<double>(const AlignRow<double>&, const AlignRow<double>&, const int32_t*,  \
                             const double*, const double*, double, int64_t, int64_t);

}  // namespace ctcspeech
