// The rules of the fast CTC recursion that every device shares: what is scaled by how much, which
// states matter, and when a result may be trusted. Plain functions of numbers, tested on the CPU.
//
// The recursion works on probabilities in two arrays in place of one of 2 L + 1 states: B[j], j = 0..L,
// the blank before label j (B[L] after the last), and A[j], j = 0..L-1, label j itself. m_j is 1 where
// label j differs from label j - 1, else 0, m_0 = 0. With the tilt lambda and the weight d_t of entering
// a label at frame t (1 without a delay penalty):
//
//     X[j]  = B[j] + lambda A[j-1]
//     B'[j] = p_blank X[j]
//     A'[j] = p_j (A[j] + lambda d_t (m_j ? X[j] : B[j]))
//
// and backwards, with beta that leaves out its own frame's emission, U_B = p_blank beta_B, U_A = p beta_A:
//
//     beta_B'[j] = U_B[j] + lambda d_t U_A[j]
//     beta_A'[j] = U_A[j] + lambda (m_{j+1} ? beta_B'[j+1] : U_B[j+1])
//
// gamma = alpha beta, normalised by its own frame's sum.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/compiler.h"

namespace ctcspeech {
namespace {  // each file its own copy: compiled for its own instruction set

// The tilt. Multiplying state s by lambda^s is an exact similarity transform, undone by 2 L ln(lambda) at
// the end. A path that takes steps of 0, 1, 2 states with weights 1, lambda, lambda^2 moves
// (lambda + 2 lambda^2) / (1 + lambda + lambda^2) states a frame; the lambda that makes this the 2 L / T
// that are needed keeps the mass of alpha and of beta on the same states, within a float's range.
// Solved for lambda: (2 - v) lambda^2 + (1 - v) lambda - v = 0 with v = 2 L / T.
CTC_SHARED double tilt(int64_t T, int64_t L) {
  const double v = 2.0 * static_cast<double>(L) / static_cast<double>(T);
  if (v >= 1) return 1;
  const double lambda = (v - 1 + std::sqrt((1 - v) * (1 - v) + 4 * v * (2 - v))) / (2 * (2 - v));
  return lambda > 1e-6 ? lambda : 1e-6;
}

// Label positions j whose states count at frame t: reachable from the start, and able to reach the end.
CTC_SHARED int64_t lowest_label(int64_t t, int64_t T, int64_t L) {
  const int64_t j = L - (T - t);
  return j > 0 ? j : 0;
}
CTC_SHARED int64_t highest_label(int64_t t, int64_t L) { return t + 1 < L ? t + 1 : L; }

// Rescaling by powers of two. The largest value of a row is looked at every kRescaleEvery frames and
// brought back to 2^high when it is outside (2^low, 2^top). Emissions are at most 1, so that a frame
// multiplies by at most 1 + lambda + lambda^2 <= 3 (times d_t), and alpha beta stays within the range.
constexpr int kRescaleEvery = 4;
struct Range {
  int low, high, top;
};
template <class Real>
struct Scaling;
template <>
struct Scaling<float> {
  static constexpr Range alpha{40, 88, 100}, beta{-40, 10, 12};
  static constexpr float floor = 0x1p-124f;  // added to each state of the upper bound
};
template <>
struct Scaling<double> {
  static constexpr Range alpha{500, 900, 980}, beta{-300, 10, 30};
  static constexpr double floor = 0x1p-1020;
};

// alpha and beta may each be within the range and large on different states. Then alpha beta is small
// throughout, and single products are lost: the sum over a frame must be at least this.
template <class Real>
constexpr Real kLeastOccupation = sizeof(Real) == 4 ? Real(0x1p-88) : Real(0x1p-970);
// And at most this, or its inverse is below the smallest normal number.
template <class Real>
constexpr Real kMostOccupation = sizeof(Real) == 4 ? Real(0x1p120) : Real(0x1p1000);

// The certificate. Values below the smallest normal number are lost. The forward pass adds the floor to
// every state and so is an upper bound of Z, the backward pass (or a second forward pass) loses them and
// is a lower bound. Where the two agree to within rounding, which grows as sqrt(T), nothing that mattered
// was lost. What is let through here bounds the error of the gradient.
CTC_SHARED bool certified(double log_upper, double log_lower, int64_t T) {
  const double tolerance = 1e-6 + 1.5e-7 * std::sqrt(static_cast<double>(T));
  return std::fabs(log_upper - log_lower) < tolerance;
}

// Whether float's rounding, which grows as sqrt(T), is felt in the loss itself. Only certain utterances
// have losses so small; their sum is then taken again in double.
CTC_SHARED bool small(double loss, int64_t T) {
  return loss < std::sqrt(static_cast<double>(T));
}

}  // namespace
}  // namespace ctcspeech
