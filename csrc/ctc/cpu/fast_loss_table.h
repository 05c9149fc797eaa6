// The fast CTC loss as compiled for each instruction set: one table of functions from each fast_loss_<isa>.cpp.
#pragma once

#include "ctc/utterance.h"

namespace ctcspeech {

// Kinds of number, in the order in which they are tried.
enum Arithmetic { kSingle = 0, kTwice = 1, kWide = 2, kLogSpace = 3 };

struct FastResult {
  double loss;
  Arithmetic arithmetic;  // which one it took
};

// `arithmetic`: the first kind of number to try.
struct FastPath {
  FastResult (*float32)(const Utterance<float>&, void* workspace, int arithmetic);
  FastResult (*float64)(const Utterance<double>&, void* workspace, int arithmetic);
  FastResult (*float16)(const Utterance<Half>&, void* workspace, int arithmetic);
  FastResult (*bfloat16)(const Utterance<BFloat16>&, void* workspace, int arithmetic);
  size_t (*workspace)(int64_t T, int64_t C, int64_t L, bool with_gradient);
  size_t (*workspace64)(int64_t T, int64_t C, int64_t L, bool with_gradient);  // float64 logits
};

FastPath ctc_baseline();
FastPath ctc_avx2();
FastPath ctc_avx512();
FastPath ctc_neon();

}  // namespace ctcspeech
