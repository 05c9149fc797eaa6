// The recurrence of a GRU layer over packed sequences, and its gradient.
//
// Frames are packed as in torch: all first frames, then all second ones, and so on, the longest
// sequence first; sizes[t] sequences have a frame t. Of M frames in all and D directions, with H
// units each, arrays are (M, D, H) or (M, D, 3H), in row-major order. Direction 1 runs from each
// sequence's own last frame to its first.
//
//   r = sigmoid(gates_r + U_r h')                       h' is the hidden state one frame before
//   z = sigmoid(gates_z + U_z h')
//   c = U_n h' + bias
//   n = tanh(gates_n + r c)
//   h = n + z (h' - n)
//
// (Cho et al. 2014 in the form that cuDNN and torch compute, where r acts on c.)
#pragma once

#include <cstdint>

namespace ctcspeech {

struct GruShape {
  const int64_t* sizes;    // (steps), each at least 1, none larger than the one before
  const int64_t* offsets;  // (steps), sums of the sizes before
  int64_t steps;
  int64_t directions;  // 1 or 2
  int64_t hidden;      // H
};

// gates: in, W x + b of r, z, n; out, r, z, n themselves. weight: U (D, 3H, H). bias: (D, H).
// hidden: out, h (M, D, H). candidate: out, c (M, D, H), what the gradient needs; if it is null,
// r, z, n are not written either. isa: an Isa that is available, -1 for the best.
void gru_forward(const GruShape& shape, float* gates, const float* weight, const float* bias,
                 float* hidden, float* candidate, int threads, int isa);

// gates, hidden, candidate: as gru_forward left them. gradient: of the loss by h (M, D, H).
// Out: grad_gates (M, D, 3H), by the gates before r, z, n were taken; grad_candidate (M, D, H);
// before (M, D, H), h' of each frame. From these, U's gradient is a product over all frames.
void gru_backward(const GruShape& shape, const float* gates, const float* weight,
                  const float* hidden, const float* candidate, const float* gradient,
                  float* grad_gates, float* grad_candidate, float* before, int threads, int isa);

}  // namespace ctcspeech
