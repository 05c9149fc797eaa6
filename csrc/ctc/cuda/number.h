// A number with an exponent of its own: m 2^e with m in [1, 2), or 0, or NaN. Products and sums of
// probabilities neither underflow nor round more than m does, so a recursion needs no rescaling, no
// logarithm and no second attempt. float has 32 bits of exponent, double 64.
#pragma once

#include <cmath>
#include <cstdint>

#include "ctc/utterance.h"

namespace ctcspeech {
namespace {

// The exponents of one utterance add up to at most kRange either way. That of zero is so low that zero
// times the largest is still below the smallest, and so high that zero times zero times the smallest is
// still a number, less the largest too.
template <class Real>
struct Format;
template <>
struct Format<float> {
  using Bits = uint32_t;
  using Exponent = int32_t;
  static constexpr int kDigits = 23, kBias = 127;
  static constexpr Exponent kRange = 1 << 28, kOfZero = -3 * kRange;
};
template <>
struct Format<double> {
  using Bits = uint64_t;
  using Exponent = int64_t;
  static constexpr int kDigits = 52, kBias = 1023;
  static constexpr Exponent kRange = int64_t{1} << 50, kOfZero = -3 * kRange;
};

template <class Real>
struct alignas(2 * sizeof(Real)) Extended {  // aligned: one access of memory
  using Exponent = typename Format<Real>::Exponent;
  Real m;
  Exponent e;
};

template <class Real>
CTC_SHARED Extended<Real> extended_zero() {
  return {Real(0), Format<Real>::kOfZero};
}
template <class Real>
CTC_SHARED Extended<Real> extended_one() {
  return {Real(1), 0};
}

// 2^-d; 0 where that is below the normal numbers. d > -bias.
template <class Real>
CTC_SHARED Real power_of_half(typename Format<Real>::Exponent d) {
  using F = Format<Real>;
  const auto biased = F::kBias - d;
  return bit_cast<Real>(static_cast<typename F::Bits>(biased > 0 ? biased : 0) << F::kDigits);
}

// m brought back to [1, 2). m is 0, NaN, or a positive normal number.
template <class Real>
CTC_SHARED Extended<Real> normalised(Extended<Real> x) {
  using F = Format<Real>;
  constexpr int kMask = 2 * F::kBias + 1;
  const int biased = static_cast<int>(bit_cast<typename F::Bits>(x.m) >> F::kDigits) & kMask;
  const int shift = biased == kMask ? 0 : biased - F::kBias;  // NaN keeps its exponent
  return {x.m * power_of_half<Real>(shift), x.m == 0 ? F::kOfZero : x.e + shift};
}

// The results of these two are not normalised: m stays positive and may grow by a few bits.
template <class Real>
CTC_SHARED Extended<Real> times(Extended<Real> x, Extended<Real> y) {
  return {x.m * y.m, x.e + y.e};
}
template <class Real>
CTC_SHARED Extended<Real> plus(Extended<Real> x, Extended<Real> y) {
  const auto d = x.e - y.e;
  const bool first = d >= 0;
  const Real high = first ? x.m : y.m, low = first ? y.m : x.m;
  return {high + low * power_of_half<Real>(first ? d : -d), first ? x.e : y.e};
}

// m 2^e as a plain number: 0 below the normal numbers, the largest powers of two cut off.
template <class Real>
CTC_SHARED Real plain(Real m, int64_t e) {
  using Exponent = typename Format<Real>::Exponent;
  constexpr int64_t kMost = Format<Real>::kBias - 1;
  const int64_t lowest = -2 * kMost;
  const auto d = static_cast<Exponent>(e > kMost ? -kMost : e < lowest ? -lowest : -e);
  return m * power_of_half<Real>(d);
}
template <class Real>
CTC_SHARED Real plain(Extended<Real> x) {
  return plain(x.m, x.e);
}
// x y z as a plain number
template <class Real>
CTC_SHARED Real plain_product(Extended<Real> x, Extended<Real> y, Extended<Real> z) {
  return plain(x.m * y.m * z.m, int64_t{x.e} + y.e + z.e);
}

// 1 / x for x > 0
template <class Real>
CTC_SHARED Extended<Real> inverse(Extended<Real> x) {
  return normalised<Real>({Real(1) / x.m, -x.e});
}

// ln x; -infinity for 0
template <class Real>
CTC_SHARED double logarithm(Extended<Real> x) {
  return std::log(static_cast<double>(x.m)) + static_cast<double>(x.e) * 0.69314718055994530942;
}

// factor exp(x), the factor in (0, 1]; an exponent beyond `limit` either way counts as the limit. 0 for
// x = -infinity. The range is reduced in double: x may be large, and the result is right to Real.
template <class Real>
CTC_SHARED Extended<Real> exponential(double x, Real factor,
                                      typename Format<Real>::Exponent limit) {
  constexpr double kHigh = 0.69314718055994530942, kLow = 2.3190468138462996e-17;  // ln 2
  if (x == -kInfinity) return extended_zero<Real>();
  const double n = std::rint(x * 1.44269504088896340736), most = static_cast<double>(limit);
  if (n > most) return {Real(1), limit};
  if (n < -most) return {Real(1), -limit};
  const double r = std::fma(-n, kLow, std::fma(-n, kHigh, x));  // in [-ln 2 / 2, ln 2 / 2]
  if (!(r == r)) return {static_cast<Real>(r), 0};
  return normalised<Real>({std::exp(static_cast<Real>(r)) * factor,
                           static_cast<typename Format<Real>::Exponent>(n)});
}

}  // namespace
}  // namespace ctcspeech
