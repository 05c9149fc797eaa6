// A language model over labels: an embedding, LSTM layers, a softmax. Float32, many states at once.
//
// The layers are those of Hochreiter and Schmidhuber 1997 with forget gates (Gers et al. 2000), for a
// batch of states, with x the embedded label or the hidden values of the layer below:
//
//   [i f g o] = W x + U h + b;   c' = sigmoid(f) c + sigmoid(i) tanh(g);   h' = sigmoid(o) tanh(c')
//   ln P(next) = ln softmax(V h' + v)
//
// Immutable after construction: any number of threads may compute at once.
#pragma once

#include <cstdint>
#include <vector>

namespace ctcspeech::neural {

constexpr int32_t kEnd = 0;  // the label that begins and ends a sentence

struct LayerWeights {      // rows of gates i, f, g, o: (4H, ...), row-major
  const float* input;      // (4H, width): width is that of the embedding, or H
  const float* recurrent;  // (4H, H)
  const float* bias;       // (4H)
};

struct Shape {
  int64_t labels = 0, embedding = 0, hidden = 0, layers = 0;
};

class Lstm {
 public:
  // Copies the weights. embedding (labels, E), output (labels, H), output_bias (labels).
  Lstm(const Shape& shape, const float* embedding, const std::vector<LayerWeights>& layers,
       const float* output, const float* output_bias);

  const Shape& shape() const { return shape_; }
  // Floats of a state: for each layer H hidden values and H cells.
  int64_t state_size() const { return 2 * shape_.layers * shape_.hidden; }

  // One label further for `count` states at once: states[i] (state_size floats, null: all zero) and
  // labels[i] to next[i] and ln_p[i] (labels floats). No array may overlap another.
  void step(const float* const* states, const int32_t* labels, int64_t count, float* const* next,
            float* const* ln_p) const;

 private:
  struct Layer {
    std::vector<float> input;      // transposed: (width, 4H); empty in the first layer
    std::vector<float> recurrent;  // transposed: (H, 4H)
    std::vector<float> bias;
  };
  void step_some(const float* const* states, const int32_t* labels, int64_t count,
                 float* const* next, float* const* ln_p, std::vector<float>& scratch) const;

  Shape shape_;
  std::vector<float> first_;  // (labels, 4H): W x + b of the first layer, for each label
  std::vector<Layer> layers_;
  std::vector<float> output_, output_bias_;  // (H, labels), (labels)
};

}  // namespace ctcspeech::neural
