// The 16-bit floats: IEEE binary16 and bfloat16, to float and back. Arithmetic is done in float.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/compiler.h"

namespace ctcspeech {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

namespace {  // each file its own copy: compiled for its own instruction set

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

}  // namespace
}  // namespace ctcspeech
