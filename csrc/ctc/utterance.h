// One utterance of a CTC problem, as every implementation on the CPU sees it, and the plain memory
// helpers that they share.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "ctc/ctc.h"
#include "ctc/equations.h"

namespace ctcspeech {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The options of the recursion besides the emissions themselves.
struct Options {
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
  Options options;
};

// What follows has no linkage: files compiled for different instruction sets include it, and the linker
// must not serve one's copy to another.
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class To, class From>
CTC_SHARED To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

CTC_SHARED float to_real(float x) { return x; }
CTC_SHARED double to_real(double x) { return x; }
CTC_SHARED float to_real(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
CTC_SHARED float to_real(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)  // infinity and NaN
    return bit_cast<float>(sign | 0x7f800000u | (magnitude << 13));
  // A half's bits shifted are a float with the exponent short by 112; subnormals come right too.
  const float value = bit_cast<float>(magnitude << 13) * 0x1p112f;
  return bit_cast<float>(sign | bit_cast<uint32_t>(value));
}

CTC_SHARED void from_real(float x, float& out) { out = x; }
CTC_SHARED void from_real(double x, double& out) { out = x; }
CTC_SHARED void from_real(double x, float& out) { out = static_cast<float>(x); }
CTC_SHARED void from_real(float x, BFloat16& out) {  // to nearest, ties to even
  const uint32_t bits = bit_cast<uint32_t>(x);
  out.bits = std::isnan(x) ? 0x7fc0u
                           : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
CTC_SHARED void from_real(float x, Half& out) {  // to nearest, ties to even
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // rounds to more than 65504
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: let the adder round to multiples of 2^-24
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  out.bits = static_cast<uint16_t>(sign | half);
}
CTC_SHARED void from_real(double x, BFloat16& out) { from_real(static_cast<float>(x), out); }
CTC_SHARED void from_real(double x, Half& out) { from_real(static_cast<float>(x), out); }

// Hands out aligned pieces of a block of memory; with a null block it only counts them.
class Arena {
 public:
  explicit Arena(void* memory) : base_(static_cast<char*>(memory)) {}

  template <class Item>
  Item* take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(Item) + 63) & ~size_t{63};
    char* piece = base_ ? base_ + used_ : nullptr;
    used_ += bytes;
    return reinterpret_cast<Item*>(piece);
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

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
