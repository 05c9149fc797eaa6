// The GRU recurrence as compiled for each instruction set: a table of functions from each gru_<isa>.cpp.
#pragma once

#include <cstdint>

#include "gru/gru.h"

namespace ctcspeech {

// A packed matrix (depth, 3 * width * blocks), one per direction.
struct GruWeights {
  const float* data;
  int64_t direction_stride;
};

struct GruTask {
  int64_t direction;
  int64_t first, last;  // sequences
};

struct GruForward {
  GruShape shape;
  GruWeights weights;
  float* gates;
  const float* bias;
  float* hidden;
  float* candidate;
};

struct GruBackward {
  GruShape shape;
  GruWeights weights;
  const float* gates;
  const float* hidden;
  const float* candidate;
  const float* gradient;
  float* grad_gates;
  float* grad_candidate;
  float* before;
};

// What an instruction set offers.
struct GruKernels {
  int64_t width;
  int64_t rows;
  void (*forward)(const GruForward&, const GruTask&, float* scratch);
  void (*backward)(const GruBackward&, const GruTask&, float* scratch);
};

GruKernels gru_baseline();
GruKernels gru_avx2();
GruKernels gru_avx512();
GruKernels gru_neon();

}  // namespace ctcspeech
