// The kinds of number that the CTC recursion runs on, each a vector of W lanes: Plain (float or double,
// kept in range by rescaling) and Extended (a mantissa and an exponent a lane: no limit of range).
// V in what follows is one of the vector types of vec_*.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ctcspeech {
namespace {

constexpr double kLn2 = 0.69314718055994530942;

#if defined(__clang__)
#define CTC_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define CTC_UNROLL _Pragma("GCC unroll 16")
#else
#define CTC_UNROLL
#endif
#if defined(__GNUC__)
#define CTC_INLINE __attribute__((always_inline)) inline
#else
#define CTC_INLINE inline
#endif

// 2^n for a normal number: std::ldexp without the call
inline double power_of_two(int n) {
  const uint64_t bits = static_cast<uint64_t>(n + 1023) << 52;
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// x = n ln 2 + r with integer n: gives exp(r), |r| <= ln 2 / 2, and n. x in [-1e9, 0].
template <class V>
inline V exp_parts(V x, V& n) {
  using Real = typename V::Real;
  n = V::round(V::mul(x, V::set(static_cast<Real>(1.44269504088896341))));
  if constexpr (sizeof(Real) == 4) {
    V r = V::fma(n, V::set(-0.693359375f), x);  // ln 2 in two pieces, the first with 9 bits
    r = V::fma(n, V::set(2.12194440e-4f), r);
    V q = V::set(1.3814598e-3f);  // minimax for (exp(r) - 1 - r) / r^2: 3e-9 in exp(r)
    q = V::fma(q, r, V::set(8.3687167e-3f));
    q = V::fma(q, r, V::set(4.1668388e-2f));
    q = V::fma(q, r, V::set(1.6666521e-1f));
    q = V::fma(q, r, V::set(0.49999993f));
    return V::add(V::fma(V::mul(r, r), q, r), V::set(1.0f));
  } else {
    V r = V::fma(n, V::set(-6.93147180369123816490e-01), x);
    r = V::fma(n, V::set(-1.90821492927058770002e-10), r);
    constexpr double kTaylor[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                                  1.0 / 40320,     1.0 / 5040,     1.0 / 720,     1.0 / 120,
                                  1.0 / 24,        1.0 / 6,        0.5};
    V q = V::set(1.0 / 6227020800);  // to r^13 / 13!
    for (int i = 0; i < 11; ++i) q = V::fma(q, r, V::set(kTaylor[i]));
    return V::add(V::fma(V::mul(r, r), q, r), V::set(1.0));
  }
}

// exp(x) for x <= 0; 0 where that is not a normal number. NaN stays NaN.
template <class V>
inline V exp_nonpositive(V x) {
  using Real = typename V::Real;
  V n;
  if constexpr (sizeof(Real) == 4) {
    const V p = exp_parts(V::max(V::set(-104.0f), x), n);
    return V::scale2(p, n);
  } else {
    const V p = exp_parts(V::max(V::set(-745.0), x), n);
    return V::mul(p, V::pow2(n));
  }
}

template <class V>
struct Plain {
  using Vector = V;
  using Real = typename V::Real;
  using Mask = typename V::Mask;
  static constexpr int W = V::W;
  static constexpr int kParts = 1;  // vectors of memory that one of these takes
  static constexpr bool kExtended = false;
  V v;

  static Plain load(const Real* p) { return {V::load(p)}; }
  void store(Real* p) const { v.store(p); }
  static Plain zero() { return {V::set(0)}; }
  static Plain broadcast(const Real* p, int64_t) { return {V::set(*p)}; }
  static Plain of(double x) { return {V::set(static_cast<Real>(x))}; }
  static Plain mul(Plain a, Plain b) { return {V::mul(a.v, b.v)}; }
  static Plain add(Plain a, Plain b) { return {V::add(a.v, b.v)}; }
  static Plain fma(Plain a, Plain b, Plain c) { return {V::fma(a.v, b.v, c.v)}; }
  static Plain select(Mask m, Plain a, Plain b) { return {V::select(m, a.v, b.v)}; }
  static Plain shift_up(Plain a, Plain before) { return {V::shift_up(a.v, before.v)}; }
  static Plain shift_down(Plain a, Plain after) { return {V::shift_down(a.v, after.v)}; }

  // sum + alpha beta, up to a factor that the whole frame has in common
  static V add_occupation(Plain alpha, Plain beta, Plain, V sum) {
    return V::fma(alpha.v, beta.v, sum);
  }
};

// value = m 2^e, m in [1, 2), e an integer held in a double. Zero is 1 * 2^kLowest.
template <class V>
struct Extended {
  using Vector = V;
  using Real = double;
  using Mask = typename V::Mask;
  static constexpr int W = V::W;
  static constexpr int kParts = 2;
  static constexpr bool kExtended = true;
  static constexpr double kLowest = -1e15;
  V m, e;

  static Extended load(const double* p) { return {V::load(p), V::load(p + W)}; }
  void store(double* p) const {
    m.store(p);
    e.store(p + W);
  }
  static Extended zero() { return {V::set(1), V::set(kLowest)}; }
  static Extended broadcast(const double* p, int64_t stride) {
    return {V::set(p[0]), V::set(p[stride])};
  }
  static Extended of(double x) {  // x > 0
    int exponent;
    const double mantissa = 2 * std::frexp(x, &exponent);
    return {V::set(mantissa), V::set(exponent - 1)};
  }
  static Extended normalised(V m, V e) {
    V shift;
    const V mantissa = V::split(m, shift);
    return {mantissa, V::max(V::add(e, shift), V::set(kLowest))};
  }
  static Extended mul(Extended a, Extended b) {
    return normalised(V::mul(a.m, b.m), V::add(a.e, b.e));
  }
  static Extended add(Extended a, Extended b) {
    const V e = V::max(a.e, b.e);
    const V scaled = V::mul(b.m, V::pow2(V::sub(b.e, e)));
    return normalised(V::fma(a.m, V::pow2(V::sub(a.e, e)), scaled), e);
  }
  static Extended fma(Extended a, Extended b, Extended c) { return add(mul(a, b), c); }
  static Extended select(Mask k, Extended a, Extended b) {
    return {V::select(k, a.m, b.m), V::select(k, a.e, b.e)};
  }
  static Extended shift_up(Extended a, Extended before) {
    return {V::shift_up(a.m, before.m), V::shift_up(a.e, before.e)};
  }
  static Extended shift_down(Extended a, Extended after) {
    return {V::shift_down(a.m, after.m), V::shift_down(a.e, after.e)};
  }

  // sum + alpha beta / Z
  static V add_occupation(Extended alpha, Extended beta, Extended inverse_z, V sum) {
    const V m = V::mul(V::mul(alpha.m, beta.m), inverse_z.m);
    return V::fma(m, V::pow2(V::add(V::add(alpha.e, beta.e), inverse_z.e)), sum);
  }
};

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
