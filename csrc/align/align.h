// Forced alignment: the most probable CTC path of a known label sequence (Viterbi over the same
// states as the CTC recursion of Graves et al. 2006, section 4.1, with max in place of the sum).
//
// States alternate blank and label: B[j], j = 0..L, is the blank before label j, A[j], j = 0..L-1,
// the label; state number s = 2j for B[j] and 2j + 1 for A[j]. With e_c the frame's log-probability
// of class c,
//
//     B'[j] = e_blank    + max(B[j], A[j-1])
//     A'[j] = e_label(j) + max(A[j], B[j], A[j-1] if label j differs from label j-1)
//
// Among equal predecessors the path stays where it is, else comes from the state before, else skips
// one; among equal ends it takes the final blank.
//
// Memory: no back-pointers are kept. The forward pass saves its row every `interval` frames; the way
// back computes one interval anew at a time, only for the states from which the known end of that
// interval can be reached (2 * interval of them).
#pragma once

#include <cstdint>

namespace ctcspeech {

// A label that stands for any stretch of speech: its log-probability is the frame's best plus
// `wildcard_score`. It needs no blank between itself and its neighbours.
constexpr int64_t kWildcard = -1;

enum class AlignStatus { kOk = 0, kInfeasible = 1, kNan = 2, kNoMemory = 3 };

template <class S>
struct AlignProblem {
  const S* emissions;    // T rows of C logits or log-probabilities
  int64_t frame_stride;  // from one row to the next, in elements
  int64_t frames;        // T
  int64_t classes;       // C
  const int64_t* labels; // L of them, each in [0, C) and not blank, or kWildcard
  int64_t num_labels;    // L
  int64_t blank;
  int64_t band;          // labels to either side of the straight line from start to end; < 0: all
  S wildcard_score;      // <= 0, natural logarithm, for each frame
};

// Fills `states` (T state numbers), `log_probs` (T log-probabilities of the path's class at each
// frame; a wildcard's is that of the frame's best class plus wildcard_score) and `score`, their sum.
// kInfeasible: no path has probability above zero (too few frames, -inf emissions, or a band too
// narrow); the outputs are then undefined. isa: an Isa that is available, -1 for the best.
template <class S>
AlignStatus align(const AlignProblem<S>& problem, int32_t* states, S* log_probs, double* score,
                  int isa);

}  // namespace ctcspeech
