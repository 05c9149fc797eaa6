// The GRU recurrence, written once with the vectors of vec_*.h; each gru_<isa>.cpp instantiates it for its
// own, and for the number of sequences that are multiplied together.
//
// A task is a range of sequences in one direction: no task waits for another. Within a frame up to
// kRows sequences share each load of the weights, which stand packed in the order of their use; three
// vectors of sums a sequence stay in registers.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/compiler.h"
#include "base/vec_exp.h"
#include "gru/gru_table.h"

namespace ctcspeech {
namespace {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class V>
inline V load(const float* from, int count) {
  return count == V::W ? V::loadu(from) : V::load_some(from, count, 0);
}
template <class V>
inline void store(float* to, V v, int count) {
  if (count == V::W)
    v.storeu(to);
  else
    v.store_some(to, count);
}

template <class V>
inline V sigmoid(V x) {
  const V one = V::set(1);
  return V::div(one, V::add(one, exp_limited(V::sub(V::set(0), x))));
}
template <class V>
inline V hyperbolic_tangent(V x) {
  const V one = V::set(1);
  return V::sub(one, V::div(V::set(2), V::add(one, exp_limited(V::add(x, x)))));
}

// sums[i] += a[i] (depth) times a block (depth, 3 * V::W) of packed weights.
template <class V, int R>
inline void multiply(V (&sums)[R][3], const float* const* a, int64_t depth, const float* block) {
  for (int64_t k = 0; k < depth; ++k, block += 3 * V::W) {
    const V b0 = V::loadu(block), b1 = V::loadu(block + V::W), b2 = V::loadu(block + 2 * V::W);
    CTC_UNROLL
    for (int i = 0; i < R; ++i) {
      const V x = V::set(a[i][k]);
      sums[i][0] = V::fma(x, b0, sums[i][0]);
      sums[i][1] = V::fma(x, b1, sums[i][1]);
      sums[i][2] = V::fma(x, b2, sums[i][2]);
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
          first ? 0 : smaller(shape.sizes[t], shape.sizes[before])};
}

template <class V, int R>
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
  constexpr int64_t kWidth = V::W;
  const float* weights = p.weights.data + d * p.weights.direction_stride;
  for (int64_t j = 0; j < H; j += kWidth, weights += 3 * kWidth * H) {
    const int count = static_cast<int>(H - j < kWidth ? H - j : kWidth);
    V sums[R][3] = {};
    if (sequence < step.states) multiply<V, R>(sums, state, H, weights);
    const V bias = load<V>(p.bias + d * H + j, count);
    CTC_UNROLL
    for (int i = 0; i < R; ++i) {
      const V r = sigmoid(V::add(load<V>(gates[i] + j, count), sums[i][0]));
      const V z = sigmoid(V::add(load<V>(gates[i] + H + j, count), sums[i][1]));
      const V c = V::add(sums[i][2], bias);
      const V n = hyperbolic_tangent(V::fma(r, c, load<V>(gates[i] + 2 * H + j, count)));
      store(hidden[i] + j, V::fma(z, V::sub(load<V>(state[i] + j, count), n), n), count);
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

template <class V, int R>
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
  constexpr int64_t kWidth = V::W;
  const float* weights = p.weights.data + d * p.weights.direction_stride;
  for (int64_t j = 0; j < H; j += 3 * kWidth, weights += 9 * kWidth * H) {
    V sums[R][3] = {};
    multiply<V, R>(sums, grad_gates, 2 * H, weights);
    multiply<V, R>(sums, grad_candidate, H, weights + 6 * kWidth * H);
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < 3; ++v) {
        float* to = carry[i] + j + v * kWidth;
        V::add(V::loadu(to), sums[i][v]).storeu(to);
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

template <class V, int kRows>
void forward(const GruForward& p, const GruTask& task, float* scratch) {
  const int64_t T = p.shape.steps;
  std::memset(scratch, 0, p.shape.hidden * sizeof(float));
  for (int64_t k = 0; k < T; ++k) {
    const Step step = step_of(p.shape, task.direction, task.direction ? T - 1 - k : k);
    const int64_t last = smaller(task.last, step.count);
    for (int64_t s = task.first; s < last;)
      s += dispatch<kRows>(last - s, [&](auto rows) {
        forward_rows<V, decltype(rows)::value>(p, task, step, s, scratch);
      });
  }
}

template <class V, int kRows>
void backward(const GruBackward& p, const GruTask& task, float* scratch) {
  const int64_t T = p.shape.steps, H = p.shape.hidden;
  constexpr int64_t kUnit = 3 * V::W;
  const int64_t stride = (H + kUnit - 1) / kUnit * kUnit;
  float* carries = scratch + stride;
  std::memset(scratch, 0, (1 + task.last - task.first) * stride * sizeof(float));
  for (int64_t k = T - 1; k >= 0; --k) {
    const Step step = step_of(p.shape, task.direction, task.direction ? T - 1 - k : k);
    const int64_t last = smaller(task.last, step.count);
    for (int64_t s = task.first; s < last;)
      s += dispatch<kRows>(last - s, [&](auto rows) {
        backward_rows<V, decltype(rows)::value>(p, task, step, s, scratch, carries, stride);
      });
  }
}

template <class V, int kRows>
GruKernels make_gru_kernels() {
  return {V::W, kRows, forward<V, kRows>, backward<V, kRows>};
}

}  // namespace
}  // namespace ctcspeech
