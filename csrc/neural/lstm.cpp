#include "neural/lstm.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace ctcspeech::neural {

namespace {

constexpr int64_t kRows = 4;      // states that share each load of the weights
constexpr int64_t kColumns = 32;  // sums that stay in registers, of each state

// (rows, columns) += (rows, depth) (depth, columns), with at most kRows rows. The sums over the depth
// are in the same order for any number of rows: a state's scores do not depend on its company.
template <int64_t kCount>
ALWAYS_INLINE void multiply_rows(const float* const* a, int64_t depth, const float* b,
                                 int64_t columns, float* const* out) {
  int64_t j = 0;
  for (; j + kColumns <= columns; j += kColumns) {
    float sums[kCount][kColumns];
    for (int64_t r = 0; r < kCount; ++r) std::memcpy(sums[r], out[r] + j, sizeof sums[r]);
    for (int64_t k = 0; k < depth; ++k) {
      const float* row = b + k * columns + j;
      for (int64_t r = 0; r < kCount; ++r) {
        const float x = a[r][k];
        for (int64_t c = 0; c < kColumns; ++c) sums[r][c] += x * row[c];
      }
    }
    for (int64_t r = 0; r < kCount; ++r) std::memcpy(out[r] + j, sums[r], sizeof sums[r]);
  }
  for (int64_t r = 0; r < kCount; ++r)
    for (int64_t k = 0; k < depth; ++k) {
      const float x = a[r][k];
      for (int64_t c = j; c < columns; ++c) out[r][c] += x * b[k * columns + c];
    }
}

ALWAYS_INLINE void multiply_body(const float* const* a, int64_t rows, int64_t depth, const float* b,
                                 int64_t columns, float* const* out) {
  switch (rows) {
    case 1: return multiply_rows<1>(a, depth, b, columns, out);
    case 2: return multiply_rows<2>(a, depth, b, columns, out);
    case 3: return multiply_rows<3>(a, depth, b, columns, out);
    default: return multiply_rows<4>(a, depth, b, columns, out);
  }
}

using Multiply = void (*)(const float* const*, int64_t, int64_t, const float*, int64_t,
                          float* const*);

void multiply_plain(const float* const* a, int64_t rows, int64_t depth, const float* b,
                    int64_t columns, float* const* out) {
  multiply_body(a, rows, depth, b, columns, out);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void multiply_avx2(const float* const* a, int64_t rows,
                                                       int64_t depth, const float* b,
                                                       int64_t columns, float* const* out) {
  multiply_body(a, rows, depth, b, columns, out);
}
#endif

Multiply multiply_of_this_machine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return multiply_avx2;
#endif
  return multiply_plain;
}

const Multiply multiply = multiply_of_this_machine();

std::vector<float> transposed(const float* from, int64_t rows, int64_t columns) {
  std::vector<float> to(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
  return to;
}

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Gates (4H) and cells (H) to the cells and hidden values after them.
void apply_gates(const float* gates, const float* cells, int64_t hidden, float* new_hidden,
                 float* new_cells) {
  for (int64_t j = 0; j < hidden; ++j) {
    const float kept = cells ? sigmoid(gates[hidden + j]) * cells[j] : 0.0f;
    const float cell = kept + sigmoid(gates[j]) * std::tanh(gates[2 * hidden + j]);
    new_cells[j] = cell;
    new_hidden[j] = sigmoid(gates[3 * hidden + j]) * std::tanh(cell);
  }
}

void normalise(float* logits, int64_t labels) {
  const float highest = *std::max_element(logits, logits + labels);
  double sum = 0;
  for (int64_t i = 0; i < labels; ++i) sum += std::exp(static_cast<double>(logits[i] - highest));
  const float shift = highest + static_cast<float>(std::log(sum));
  for (int64_t i = 0; i < labels; ++i) logits[i] = std::min(logits[i] - shift, 0.0f);
}

}  // namespace

Lstm::Lstm(const Shape& shape, const float* embedding, const std::vector<LayerWeights>& layers,
           const float* output, const float* output_bias)
    : shape_(shape) {
  const int64_t gates = 4 * shape.hidden;
  for (size_t k = 0; k < layers.size(); ++k) {
    Layer& layer = layers_.emplace_back();
    layer.recurrent = transposed(layers[k].recurrent, gates, shape.hidden);
    layer.bias.assign(layers[k].bias, layers[k].bias + gates);
    const int64_t width = k ? shape.hidden : shape.embedding;
    layer.input = transposed(layers[k].input, gates, width);
  }
  first_.resize(static_cast<size_t>(shape.labels * gates));
  for (int64_t i = 0; i < shape.labels; ++i) {
    float* row = first_.data() + i * gates;
    const float* x = embedding + i * shape.embedding;
    std::copy(layers_[0].bias.begin(), layers_[0].bias.end(), row);
    multiply(&x, 1, shape.embedding, layers_[0].input.data(), gates, &row);
  }
  layers_[0].input = {};
  output_ = transposed(output, shape.labels, shape.hidden);
  output_bias_.assign(output_bias, output_bias + shape.labels);
}

void Lstm::step(const float* const* states, const int32_t* labels, int64_t count,
                float* const* next, float* const* ln_p) const {
  std::vector<float> scratch(static_cast<size_t>(kRows * 4 * shape_.hidden));
  for (int64_t i = 0; i < count; i += kRows)
    step_some(states + i, labels + i, std::min(kRows, count - i), next + i, ln_p + i, scratch);
}

void Lstm::step_some(const float* const* states, const int32_t* labels, int64_t count,
                     float* const* next, float* const* ln_p, std::vector<float>& scratch) const {
  const int64_t H = shape_.hidden, gates = 4 * H;
  float* sums[kRows];
  const float* below[kRows];
  for (int64_t r = 0; r < count; ++r) sums[r] = scratch.data() + r * gates;
  for (int64_t k = 0; k < shape_.layers; ++k) {
    const Layer& layer = layers_[k];
    // A state holds the hidden values of all layers, then their cells.
    for (int64_t r = 0; r < count; ++r) {
      const float* start = k ? layer.bias.data() : first_.data() + labels[r] * gates;
      std::copy_n(start, gates, sums[r]);
    }
    if (k) multiply(below, count, H, layer.input.data(), gates, sums);
    const float* before[kRows];
    float* into[kRows];
    int64_t going_on = 0;  // those that have a state
    for (int64_t r = 0; r < count; ++r) {
      if (!states[r]) continue;
      before[going_on] = states[r] + k * H;
      into[going_on++] = sums[r];
    }
    if (going_on) multiply(before, going_on, H, layer.recurrent.data(), gates, into);
    for (int64_t r = 0; r < count; ++r) {
      const float* cells = states[r] ? states[r] + (shape_.layers + k) * H : nullptr;
      apply_gates(sums[r], cells, H, next[r] + k * H, next[r] + (shape_.layers + k) * H);
      below[r] = next[r] + k * H;
    }
  }
  for (int64_t r = 0; r < count; ++r) std::copy(output_bias_.begin(), output_bias_.end(), ln_p[r]);
  multiply(below, count, H, output_.data(), shape_.labels, ln_p);
  for (int64_t r = 0; r < count; ++r) normalise(ln_p[r], shape_.labels);
}

}  // namespace ctcspeech::neural
