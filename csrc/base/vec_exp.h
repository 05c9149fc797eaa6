// exp of vectors: the one of the CTC loss, the beam search, the alignment and the GRU. V is one of the
// vector types of vec_*.h.
#pragma once

#include <cstdint>
#include <cstring>

namespace ctcspeech {
namespace {

// 2^n for a normal number: std::ldexp without the call
inline double power_of_two(int n) {
  const uint64_t bits = static_cast<uint64_t>(n + 1023) << 52;
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// x = n ln 2 + r with integer n: gives exp(r), |r| <= ln 2 / 2, and n. |x| <= 1e9.
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

// exp(x) of floats, x limited to [-87, 87]. NaN stays NaN.
template <class V>
inline V exp_limited(V x) {
  V n;
  const V p = exp_parts(V::min(V::set(87.0f), V::max(V::set(-87.0f), x)), n);
  return V::scale2(p, n);
}

}  // namespace
}  // namespace ctcspeech
