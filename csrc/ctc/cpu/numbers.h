// The kinds of number that the CTC recursion runs on, each a vector of W lanes: PlainVector (float or double,
// kept in range by rescaling) and ExtendedVector (a mantissa and an exponent a lane: no limit of range).
// V in what follows is one of the vector types of vec_*.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/compiler.h"
#include "base/vec_exp.h"
#include "ctc/equations.h"

namespace ctcspeech {
namespace {

constexpr double kLn2 = 0.69314718055994530942;

template <class V>
struct PlainVector {
  using Vector = V;
  using Real = typename V::Real;
  using Mask = typename V::Mask;
  static constexpr int W = V::W;
  static constexpr int kParts = 1;  // vectors of memory that one of these takes
  static constexpr bool kExtended = false;
  V v;

  static PlainVector load(const Real* p) { return {V::load(p)}; }
  void store(Real* p) const { v.store(p); }
  static PlainVector zero() { return {V::set(0)}; }
  static PlainVector broadcast(const Real* p, int64_t) { return {V::set(*p)}; }
  static PlainVector of(double x) { return {V::set(static_cast<Real>(x))}; }
  static PlainVector mul(PlainVector a, PlainVector b) { return {V::mul(a.v, b.v)}; }
  static PlainVector add(PlainVector a, PlainVector b) { return {V::add(a.v, b.v)}; }
  static PlainVector fma(PlainVector a, PlainVector b, PlainVector c) { return {V::fma(a.v, b.v, c.v)}; }
  static PlainVector select(Mask m, PlainVector a, PlainVector b) { return {V::select(m, a.v, b.v)}; }
  static PlainVector shift_up(PlainVector a, PlainVector before) { return {V::shift_up(a.v, before.v)}; }
  static PlainVector shift_down(PlainVector a, PlainVector after) { return {V::shift_down(a.v, after.v)}; }

  // sum + alpha beta, up to a factor that the whole frame has in common
  static V add_occupation(PlainVector alpha, PlainVector beta, PlainVector, V sum) {
    return V::fma(alpha.v, beta.v, sum);
  }
};

// value = m 2^e, m in [1, 2), e an integer held in a double. Zero is 1 * 2^kLowest.
template <class V>
struct ExtendedVector {
  using Vector = V;
  using Real = double;
  using Mask = typename V::Mask;
  static constexpr int W = V::W;
  static constexpr int kParts = 2;
  static constexpr bool kExtended = true;
  static constexpr double kLowest = -1e15;
  V m, e;

  static ExtendedVector load(const double* p) { return {V::load(p), V::load(p + W)}; }
  void store(double* p) const {
    m.store(p);
    e.store(p + W);
  }
  static ExtendedVector zero() { return {V::set(1), V::set(kLowest)}; }
  static ExtendedVector broadcast(const double* p, int64_t stride) {
    return {V::set(p[0]), V::set(p[stride])};
  }
  static ExtendedVector of(double x) {  // x > 0
    int exponent;
    const double mantissa = 2 * std::frexp(x, &exponent);
    return {V::set(mantissa), V::set(exponent - 1)};
  }
  static ExtendedVector normalised(V m, V e) {
    V shift;
    const V mantissa = V::split(m, shift);
    return {mantissa, V::max(V::add(e, shift), V::set(kLowest))};
  }
  static ExtendedVector mul(ExtendedVector a, ExtendedVector b) {
    return normalised(V::mul(a.m, b.m), V::add(a.e, b.e));
  }
  static ExtendedVector add(ExtendedVector a, ExtendedVector b) {
    const V e = V::max(a.e, b.e);
    const V scaled = V::mul(b.m, V::pow2(V::sub(b.e, e)));
    return normalised(V::fma(a.m, V::pow2(V::sub(a.e, e)), scaled), e);
  }
  static ExtendedVector fma(ExtendedVector a, ExtendedVector b, ExtendedVector c) { return add(mul(a, b), c); }
  static ExtendedVector select(Mask k, ExtendedVector a, ExtendedVector b) {
    return {V::select(k, a.m, b.m), V::select(k, a.e, b.e)};
  }
  static ExtendedVector shift_up(ExtendedVector a, ExtendedVector before) {
    return {V::shift_up(a.m, before.m), V::shift_up(a.e, before.e)};
  }
  static ExtendedVector shift_down(ExtendedVector a, ExtendedVector after) {
    return {V::shift_down(a.m, after.m), V::shift_down(a.e, after.e)};
  }

  // sum + alpha beta / Z
  static V add_occupation(ExtendedVector alpha, ExtendedVector beta, ExtendedVector inverse_z, V sum) {
    const V m = V::mul(V::mul(alpha.m, beta.m), inverse_z.m);
    return V::fma(m, V::pow2(V::add(V::add(alpha.e, beta.e), inverse_z.e)), sum);
  }
};

// What is added to each state of the upper bound.
template <class N>
N floor_value() {
  if constexpr (N::kExtended)
    return N::zero();
  else
    return N::of(Scaling<typename N::Real>::floor);
}

// The power of two that brings `largest` back to 2^range.high; 0 where it is within the range. False:
// nothing left, or too much.
template <class Real>
inline bool needed_shift(Real largest, const Range& range, int& shift) {
  shift = 0;
  const auto bottom = static_cast<Real>(power_of_two(range.low));
  const auto top = static_cast<Real>(power_of_two(range.top));
  if (largest > bottom && largest < top) return true;
  if (!(largest > 4 * Scaling<Real>::floor) || !(largest <= std::numeric_limits<Real>::max()))
    return false;
  shift = range.high - std::ilogb(static_cast<double>(largest));
  return true;
}

// One lane's value as mantissa and exponent, whatever the kind: for what is done once an utterance.
struct Scalar {
  double m = 0, e = 0;

  double log() const { return std::log(m) + e * kLn2; }
  static Scalar add(Scalar a, Scalar b) {
    if (a.m == 0 || (b.m != 0 && b.e > a.e + 1000)) return b;
    if (b.m == 0 || a.e > b.e + 1000) return a;
    return {a.m + std::ldexp(b.m, static_cast<int>(b.e - a.e)), a.e};
  }
};

template <class N>
inline Scalar scalar_at(const typename N::Real* unit, int64_t lane) {
  if constexpr (N::kExtended) {
    const double e = unit[N::W + lane];
    return e < N::kLowest / 2 ? Scalar{} : Scalar{unit[lane], e};
  } else {
    return {static_cast<double>(unit[lane]), 0};
  }
}

}  // namespace
}  // namespace ctcspeech
