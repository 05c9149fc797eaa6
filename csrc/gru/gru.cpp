#include "gru/gru.h"

#include <algorithm>
#include <vector>

#include "base/cpu.h"
#include "base/parallel.h"
#include "gru/gru_table.h"

namespace ctcspeech {

namespace {

// U (3H, H) for the forward pass: for each vector of units the columns of r, z and n, by depth.
std::vector<float> pack_forward(const GruShape& shape, const float* weight, int64_t width,
                                int64_t* stride) {
  const int64_t H = shape.hidden, blocks = (H + width - 1) / width;
  *stride = blocks * 3 * width * H;
  std::vector<float> packed(shape.directions * *stride, 0.0f);
  for (int64_t d = 0; d < shape.directions; ++d)
    for (int64_t gate = 0; gate < 3; ++gate)
      for (int64_t j = 0; j < H; ++j) {
        const float* from = weight + ((d * 3 + gate) * H + j) * H;
        float* to = packed.data() + d * *stride + (j / width) * 3 * width * H + gate * width +
                    j % width;
        for (int64_t k = 0; k < H; ++k) to[k * 3 * width] = from[k];
      }
  return packed;
}

// U for the backward pass: for each three vectors of units their columns, by depth (3H).
std::vector<float> pack_backward(const GruShape& shape, const float* weight, int64_t width,
                                 int64_t* stride) {
  const int64_t H = shape.hidden, block = 3 * width, blocks = (H + block - 1) / block;
  *stride = blocks * block * 3 * H;
  std::vector<float> packed(shape.directions * *stride, 0.0f);
  for (int64_t d = 0; d < shape.directions; ++d)
    for (int64_t k = 0; k < 3 * H; ++k) {
      const float* from = weight + (d * 3 * H + k) * H;
      for (int64_t j = 0; j < H; ++j)
        packed[d * *stride + (j / block) * block * 3 * H + k * block + j % block] = from[j];
    }
  return packed;
}

// Ranges of sequences, at least one task a thread where there are sequences enough.
std::vector<GruTask> split(const GruShape& shape, int threads, int64_t rows) {
  const int64_t N = shape.steps ? shape.sizes[0] : 0;
  int64_t groups = (threads + shape.directions - 1) / shape.directions;
  int64_t size = (N + groups - 1) / std::max<int64_t>(groups, 1);
  if (groups > 1) size = std::max(size, std::min(rows, N) / 2);  // weights are read for each group
  size = std::max<int64_t>(size, 1);
  std::vector<GruTask> tasks;
  for (int64_t first = 0; first < N; first += size)
    for (int64_t d = 0; d < shape.directions; ++d)
      tasks.push_back({d, first, std::min(first + size, N)});
  return tasks;
}

}  // namespace

void gru_forward(const GruShape& shape, float* gates, const float* weight, const float* bias,
                 float* hidden, float* candidate, int threads, int isa) {
  const GruKernels k = CTCSPEECH_BY_ISA(gru, isa);
  int64_t stride = 0;
  const std::vector<float> packed = pack_forward(shape, weight, k.width, &stride);
  const std::vector<GruTask> tasks = split(shape, threads, k.rows);
  std::vector<float> scratch(tasks.size() * shape.hidden);
  const GruForward problem{shape, {packed.data(), stride}, gates, bias, hidden, candidate};
  parallel_for(static_cast<int64_t>(tasks.size()), threads, [&](int64_t i, int) {
    k.forward(problem, tasks[i], scratch.data() + i * shape.hidden);
  });
}

void gru_backward(const GruShape& shape, const float* gates, const float* weight,
                  const float* hidden, const float* candidate, const float* gradient,
                  float* grad_gates, float* grad_candidate, float* before, int threads, int isa) {
  const GruKernels k = CTCSPEECH_BY_ISA(gru, isa);
  int64_t stride = 0;
  const std::vector<float> packed = pack_backward(shape, weight, k.width, &stride);
  const std::vector<GruTask> tasks = split(shape, threads, k.rows);
  const int64_t row = (shape.hidden + 3 * k.width - 1) / (3 * k.width) * (3 * k.width);
  std::vector<int64_t> starts;  // each task has a row of zeros and one for each sequence
  int64_t total = 0;
  for (const GruTask& task : tasks) {
    starts.push_back(total);
    total += (1 + task.last - task.first) * row;
  }
  std::vector<float> scratch(total);
  const GruBackward problem{shape,    {packed.data(), stride}, gates,          hidden, candidate,
                            gradient, grad_gates,              grad_candidate, before};
  parallel_for(static_cast<int64_t>(tasks.size()), threads, [&](int64_t i, int) {
    k.backward(problem, tasks[i], scratch.data() + starts[i]);
  });
}

}  // namespace ctcspeech
