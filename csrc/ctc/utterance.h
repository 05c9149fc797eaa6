// One utterance of a CTC problem, as every implementation on the CPU sees it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/arena.h"
#include "ctc/ctc.h"
#include "ctc/equations.h"
#include "ctc/float16.h"

namespace ctcspeech {

// What enters the recursion besides the emissions.
struct RecursionTerms {
  double wildcard_penalty = 0;
  double delay_penalty = 0;
};

template <class Element>  // float, double, Half, BFloat16
struct Utterance {
  const Element* logits;  // frame t, class c: logits[t * frame_stride + c]
  int64_t frame_stride;
  Element* gradient;  // or null
  int64_t gradient_frame_stride;
  int64_t T, C, L;
  int64_t blank;
  const int32_t* labels;  // L of them; CTCSPEECH_WILDCARD for a wildcard
  double weight;          // of the gradient
  RecursionTerms terms;
};

// What follows has no linkage: files compiled for different instruction sets include it, and the linker
// must not serve one's copy to another.
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Frames that the labels need: one each, and a blank between two equal neighbours.
inline int64_t frames_needed(const int32_t* labels, int64_t L) {
  int64_t frames = L;
  for (int64_t j = 1; j < L; ++j)
    frames += labels[j] == labels[j - 1] && labels[j] != CTCSPEECH_WILDCARD;
  return frames;
}

template <class Element>
inline void fill_gradient(const Utterance<Element>& u, double value) {
  for (int64_t t = 0; t < u.T; ++t)
    for (int64_t c = 0; c < u.C; ++c) from_real(value, u.gradient[t * u.gradient_frame_stride + c]);
}

}  // namespace

// ctc/reference.cpp: log-space, float64, one state after the other. The witness of the tests and the
// last fallback. Returns -ln p; writes the gradient if u.gradient is set, and gamma (T, 2 L + 1) with
// the given stride if that is. +inf: impossible (gradient and gamma zero). NaN: the logits hold NaN or
// +inf (gradient and gamma NaN).
template <class Element>
double reference_loss(const Utterance<Element>& u, void* workspace, double* gamma = nullptr,
                      int64_t gamma_stride = 0);
size_t reference_workspace(int64_t T, int64_t C, int64_t L, bool with_gradient);

}  // namespace ctcspeech
