// The kernel that looks at lengths and labels, and lists each utterance's distinct classes.
#pragma once

#include "ctc/cuda/lattice.h"

namespace ctcspeech {
namespace {

template <class Real>
struct FindLabels {
  static constexpr int kThreads = 256;
  Batch<Real> b;

  template <class Block>
  CTC_DEVICE void operator()(Block& block) const {
    for (int64_t n = block.index(); n < b.batch; n += block.count()) one(block, n);
  }

 private:
  template <class Block>
  CTC_DEVICE void one(Block& block, int64_t n) const {
    const int threads = block.threads();
    typename Block::template Private<double> number(block), wrong(block);

    // Where concatenated labels begin: the sum of the lengths before, all of which must be sound.
    int64_t first = n * b.target_stride;
    UtteranceState item{};
    item.T = index_at(b.input_lengths, b.index_type, n);
    item.L = index_at(b.target_lengths, b.index_type, n);
    bool sound = item.T >= 0 && item.T <= b.frames && item.L >= 0 && item.L <= b.max_target_length;
    if (b.target_stride == CTCSPEECH_CONCATENATED) {
      block.alone([&](int thread) {
        number(thread) = wrong(thread) = 0;
        for (int64_t i = thread; i < n; i += threads) {
          const int64_t length = index_at(b.target_lengths, b.index_type, i);
          const bool fits = length >= 0 && length <= b.max_target_length;
          number(thread) += fits ? static_cast<double>(length) : 0.0;
          wrong(thread) += fits ? 0.0 : 1.0;
        }
      });
      first = static_cast<int64_t>(block.sum(number));
      sound = sound && block.sum(wrong) == 0 && item.L <= b.max_target_length - first;
    }
    if (!sound) item.L = 0;

    // Labels in range? How many equal neighbours?
    const auto label = [&](int64_t j) { return index_at(b.targets, b.index_type, first + j); };
    block.alone([&](int thread) {
      number(thread) = wrong(thread) = 0;
      for (int64_t j = thread; j < item.L; j += threads) {
        const int64_t c = label(j);
        const bool wild = b.allow_wildcard && c == CTCSPEECH_WILDCARD;
        wrong(thread) += wild || (c >= 0 && c < b.classes && c != b.blank) ? 0.0 : 1.0;
        number(thread) += j > 0 && !wild && c == label(j - 1) ? 1.0 : 0.0;
      }
    });
    const double repeats = block.sum(number);
    sound = sound && block.sum(wrong) == 0;
    const bool possible = static_cast<double>(item.L) + repeats <= static_cast<double>(item.T);
    const bool told_the_truth = item.L <= b.longest || !possible;  // about the longest target
    sound = sound && told_the_truth;

    item.open = sound && possible && item.T > 0;
    if (!sound || item.open) item.loss = not_a_number();
    else item.loss = possible ? 0.0 : kInfinity;
    if (!sound) item.T = item.T < 0 ? 0 : item.T > b.frames ? b.frames : item.T;
    item.weight = 1;
    if (b.reduction == CTCSPEECH_MEAN)
      item.weight /= static_cast<double>(b.batch) * static_cast<double>(item.L > 0 ? item.L : 1);
    if (item.open) {
      block.each([&](int thread) {
        for (int64_t j = thread; j < item.L; j += threads)
          b.labels[n * b.longest + j] = static_cast<int32_t>(label(j));
      });
      list_classes(block, n, item);
    }
    block.each([&](int thread) {
      if (thread == 0) b.states[n] = item;
    });
  }

  // The distinct classes and where each occurs. Quadratic in L, but no more so than the recursion, which
  // takes at least L frames of L labels.
  template <class Block>
  CTC_DEVICE void list_classes(Block& block, int64_t n, UtteranceState& item) const {
    const int threads = block.threads();
    const int64_t L = item.L;
    const int32_t* labels = b.labels + n * b.longest;
    int32_t* firsts = b.firsts + n * b.longest;
    typename Block::template Private<double> distinct(block), wild(block);
    block.each([&](int thread) {
      distinct(thread) = wild(thread) = 0;
      for (int64_t j = thread; j < L; j += threads) {
        int64_t i = 0;
        while (labels[i] != labels[j]) ++i;
        firsts[j] = i == j;
        distinct(thread) += i == j ? 1.0 : 0.0;
        wild(thread) += labels[j] == CTCSPEECH_WILDCARD ? 1.0 : 0.0;
      }
    });
    const int count = static_cast<int>(block.sum(distinct));
    item.width = count + 1;
    item.wildcards = block.sum(wild) > 0;
    block.each([&](int thread) {
      for (int64_t j = thread; j < L; j += threads) {
        int32_t rank = 0, smaller = 0;
        for (int64_t i = 0; i < L; ++i) {
          rank += labels[i] < labels[j] || (labels[i] == labels[j] && i < j);
          smaller += labels[i] < labels[j] && firsts[i];
        }
        b.order[n * b.longest + rank] = static_cast<int32_t>(j);
        b.places[n * b.longest + j] = smaller + 1;
        if (firsts[j]) {
          b.starts[n * b.width + smaller] = rank;
          b.own_classes[n * b.width + smaller + 1] = labels[j];
        }
      }
      if (thread == 0) {
        b.own_classes[n * b.width] = static_cast<int32_t>(b.blank);
        b.starts[n * b.width + count] = static_cast<int32_t>(L);
      }
    });
  }
};

}  // namespace
}  // namespace ctcspeech
