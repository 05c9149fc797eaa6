// One frame of the alignment's forward pass, as compiled for each instruction set: a table of functions from
// each align_<isa>.cpp.
#pragma once

#include <cstdint>

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

template <class S>
struct AlignFunctions {
  FrameNorm (*norm)(const S* scores, int64_t classes);
  AlignStep<S> step;
  // The same where all scores fit two vector registers (kFewClasses): they are permuted, not gathered
  // from memory. Null: there is no quicker way.
  AlignStep<S> few_step;
};

struct AlignTable {
  AlignFunctions<float> float32;
  AlignFunctions<double> float64;
};

// Scores that few_step can look up: the classes, and two more (Aligner::scores_); `scores` must be
// readable up to there.
constexpr int64_t kFewClasses = 32;

AlignTable align_baseline();
AlignTable align_avx2();
AlignTable align_avx512();
AlignTable align_neon();

}  // namespace ctcspeech
