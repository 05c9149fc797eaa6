// The GRU recurrence, written once with the compiler's vector types; each file that includes this
// has defined CTCSPEECH_GRU_WIDTH, floats in a vector, and CTCSPEECH_GRU_ROWS, sequences that are
// multiplied together, and is compiled for its instruction set.
//
// A task is a range of sequences in one direction: no task waits for another. Within a frame up to
// ROWS sequences share each load of the weights, which stand packed in the order of their use; three
// vectors of sums a sequence stay in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

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

}  // namespace ctcspeech

#ifdef CTCSPEECH_GRU_WIDTH
namespace ctcspeech {
namespace {

constexpr int64_t kWidth = CTCSPEECH_GRU_WIDTH;
constexpr int kRows = CTCSPEECH_GRU_ROWS;

typedef float Vec __attribute__((vector_size(CTCSPEECH_GRU_WIDTH * 4)));
typedef int32_t IntVec __attribute__((vector_size(CTCSPEECH_GRU_WIDTH * 4)));

inline Vec load(const float* from) {
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Vec load(const float* from, int64_t count) {
  if (count == kWidth) return load(from);
  float padded[kWidth] = {};
  std::memcpy(padded, from, count * sizeof(float));
  return load(padded);
}

inline void store(float* to, Vec v, int64_t count) {
  if (count == kWidth)
    std::memcpy(to, &v, sizeof v);
  else
    std::memcpy(to, &v, count * sizeof(float));
}

// exp(x), x limited to [-87, 87]: 2^n times a polynomial on |r| <= ln(2) / 2 (Cephes' reduction and
// coefficients of degree 6), relative error 2e-7.
inline Vec exponential(Vec x) {
  x = x < -87.0f ? Vec{} - 87.0f : x;
  x = x > 87.0f ? Vec{} + 87.0f : x;
  const Vec shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
  const Vec n = shifted - 12582912.0f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = Vec{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  IntVec bits, power;
  std::memcpy(&bits, &shifted, sizeof bits);
  std::memcpy(&power, &p, sizeof power);
  power += bits << 23;  // the low bits of `shifted` are n
  std::memcpy(&p, &power, sizeof p);
  return p;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }
inline Vec hyperbolic_tangent(Vec x) { return 1.0f - 2.0f / (1.0f + exponential(x + x)); }

// sums[i] += a[i] (depth) times a block (depth, 3 * kWidth) of packed weights.
template <int R>
inline void multiply(Vec (&sums)[R][3], const float* const* a, int64_t depth, const float* block) {
  for (int64_t k = 0; k < depth; ++k, block += 3 * kWidth) {
    const Vec b0 = load(block), b1 = load(block + kWidth), b2 = load(block + 2 * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Vec x = Vec{} + a[i][k];
      sums[i][0] += x * b0;
      sums[i][1] += x * b1;
      sums[i][2] += x * b2;
    }
  }
}

// Rows of a frame, and where the state before it stands.
struct Step {
  int64_t row;       // of the packed frames: sequence i of this frame is row + i
  int64_t previous;  // likewise of the frame before, in the direction of time
  int64_t count;     // sequences with this frame
  int64_t states;    // sequences with a frame before this one
};

inline Step step_of(const GruShape& shape, int64_t direction, int64_t t) {
  const int64_t before = direction ? t + 1 : t - 1;
  const bool first = before < 0 || before >= shape.steps;
  return {shape.offsets[t], first ? 0 : shape.offsets[before], shape.sizes[t],
          first ? 0 : std::min(shape.sizes[t], shape.sizes[before])};
}

template <int R>
void forward_rows(const GruForward& p, const GruTask& task, const Step& step, int64_t sequence,
                  const float* zeros) {
  const int64_t H = p.shape.hidden, D = p.shape.directions, d = task.direction;
  float *gates[R], *hidden[R], *candidate[R];
  const float* state[R];
  for (int i = 0; i < R; ++i) {
    const int64_t s = sequence + i, at = (step.row + s) * D + d;
    gates[i] = p.gates + at * 3 * H;
    hidden[i] = p.hidden + at * H;
    candidate[i] = p.candidate ? p.candidate + at * H : nullptr;
    state[i] = s < step.states ? p.hidden + ((step.previous + s) * D + d) * H : zeros;
  }
  const float* weights = p.weights.data + d * p.weights.direction_stride;
  for (int64_t j = 0; j < H; j += kWidth, weights += 3 * kWidth * H) {
    const int64_t count = std::min(kWidth, H - j);
    Vec sums[R][3] = {};
    if (sequence < step.states) multiply<R>(sums, state, H, weights);
    const Vec bias = load(p.bias + d * H + j, count);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Vec r = sigmoid(load(gates[i] + j, count) + sums[i][0]);
      const Vec z = sigmoid(load(gates[i] + H + j, count) + sums[i][1]);
      const Vec c = sums[i][2] + bias;
      const Vec n = hyperbolic_tangent(load(gates[i] + 2 * H + j, count) + r * c);
      store(hidden[i] + j, n + z * (load(state[i] + j, count) - n), count);
      if (!candidate[i]) continue;
      store(gates[i] + j, r, count);
      store(gates[i] + H + j, z, count);
      store(gates[i] + 2 * H + j, n, count);
      store(candidate[i] + j, c, count);
    }
  }
}

// One frame of one sequence: the gradients by gates and candidate, h', and what of dL/dh goes
// straight on to h'.
inline void backward_frame(int64_t H, const float* __restrict gates, const float* __restrict c,
                           const float* __restrict state, const float* __restrict gradient,
                           float* __restrict carry, float* __restrict grad_gates,
                           float* __restrict grad_candidate, float* __restrict before) {
  for (int64_t j = 0; j < H; ++j) {
    const float r = gates[j], z = gates[H + j], n = gates[2 * H + j];
    const float dh = gradient[j] + carry[j];
    const float dn = dh * (1.0f - z) * (1.0f - n * n);
    grad_gates[j] = dn * c[j] * r * (1.0f - r);
    grad_gates[H + j] = dh * (state[j] - n) * z * (1.0f - z);
    grad_gates[2 * H + j] = dn;
    grad_candidate[j] = dn * r;
    before[j] = state[j];
    carry[j] = dh * z;
  }
}

template <int R>
void backward_rows(const GruBackward& p, const GruTask& task, const Step& step, int64_t sequence,
                   const float* zeros, float* carries, int64_t carry_stride) {
  const int64_t H = p.shape.hidden, D = p.shape.directions, d = task.direction;
  const float *grad_gates[R], *grad_candidate[R];
  float* carry[R];
  for (int i = 0; i < R; ++i) {
    const int64_t s = sequence + i, at = (step.row + s) * D + d;
    const float* state = s < step.states ? p.hidden + ((step.previous + s) * D + d) * H : zeros;
    grad_gates[i] = p.grad_gates + at * 3 * H;
    grad_candidate[i] = p.grad_candidate + at * H;
    carry[i] = carries + (s - task.first) * carry_stride;
    backward_frame(H, p.gates + at * 3 * H, p.candidate + at * H, state, p.gradient + at * H,
                   carry[i], p.grad_gates + at * 3 * H, p.grad_candidate + at * H,
                   p.before + at * H);
  }
  if (sequence >= step.states) return;  // these begin here
  const float* weights = p.weights.data + d * p.weights.direction_stride;
  for (int64_t j = 0; j < H; j += 3 * kWidth, weights += 9 * kWidth * H) {
    Vec sums[R][3] = {};
    multiply<R>(sums, grad_gates, 2 * H, weights);
    multiply<R>(sums, grad_candidate, H, weights + 6 * kWidth * H);
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < 3; ++v) {
        float* to = carry[i] + j + v * kWidth;
        store(to, load(to) + sums[i][v], kWidth);
      }
  }
}

// Calls rows<R> for the sequences from `sequence` on, R of them at a time.
template <int R, class Rows>
int64_t dispatch(int64_t count, Rows&& rows) {
  if constexpr (R > 1) {
    if (count < R) return dispatch<R - 1>(count, rows);
  }
  rows(std::integral_constant<int, R>{});
  return R;
}

void forward(const GruForward& p, const GruTask& task, float* scratch) {
  const int64_t T = p.shape.steps;
  std::fill(scratch, scratch + p.shape.hidden, 0.0f);
  for (int64_t k = 0; k < T; ++k) {
    const Step step = step_of(p.shape, task.direction, task.direction ? T - 1 - k : k);
    const int64_t last = std::min(task.last, step.count);
    for (int64_t s = task.first; s < last;)
      s += dispatch<kRows>(last - s, [&](auto rows) {
        forward_rows<decltype(rows)::value>(p, task, step, s, scratch);
      });
  }
}

void backward(const GruBackward& p, const GruTask& task, float* scratch) {
  const int64_t T = p.shape.steps, H = p.shape.hidden;
  const int64_t stride = (H + 3 * kWidth - 1) / (3 * kWidth) * (3 * kWidth);
  float* carries = scratch + stride;
  std::fill(scratch, carries + (task.last - task.first) * stride, 0.0f);
  for (int64_t k = T - 1; k >= 0; --k) {
    const Step step = step_of(p.shape, task.direction, task.direction ? T - 1 - k : k);
    const int64_t last = std::min(task.last, step.count);
    for (int64_t s = task.first; s < last;)
      s += dispatch<kRows>(last - s, [&](auto rows) {
        backward_rows<decltype(rows)::value>(p, task, step, s, scratch, carries, stride);
      });
  }
}

constexpr GruKernels kKernels = {kWidth, kRows, forward, backward};

}  // namespace
}  // namespace ctcspeech
#endif
