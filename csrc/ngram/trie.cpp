#include "ngram/trie.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace ctcspeech::ngram {

namespace {

float float_of(uint64_t bits) {
  const uint32_t narrow = static_cast<uint32_t>(bits);
  float value;
  std::memcpy(&value, &narrow, 4);
  return value;
}

bool forgettable(float backoff) { return backoff == 0.0f && std::signbit(backoff); }

// The entry with this word among those in the range, or its end. Words are spread evenly (the trie
// numbers them by hash), so that interpolation finds the place in a few steps; should it not, halving
// takes over.
uint64_t find(const TrieView::Order& order, TrieView::Range range, WordIndex word,
              uint64_t vocabulary_size) {
  constexpr uint64_t kScan = 8;  // a range that short is read through
  uint64_t low = range.begin, high = range.end;        // the entry lies in [low, high)
  uint64_t low_word = 0, high_word = vocabulary_size;  // and its word between these
  for (int step = 0; high - low > kScan; ++step) {
    const uint64_t width = high - low;
    uint64_t at = low + width / 2;
    if (step < 12 && word >= low_word && word < high_word)
      at = low + multiply_divide(word - low_word, width, high_word - low_word);
    const WordIndex there = order.word(at);
    if (there == word) return at;
    if (there < word) {
      low = at + 1;
      low_word = uint64_t{there} + 1;
    } else {
      high = at;
      high_word = there;
    }
  }
  const uint64_t stride = static_cast<uint64_t>(order.layout.record_bits());
  for (uint64_t bit = order.bit(low); low < high; ++low, bit += stride)
    if (read_bits(order.records, bit, order.layout.word_bits) >= word)
      return order.word(low) == word ? low : range.end;
  return range.end;
}

}  // namespace

float TrieView::Order::probability(uint64_t i) const {
  const uint64_t value = read_bits(records, bit(i) + layout.word_bits, layout.probability_bits);
  return probability_codes ? probability_codes[value] : -float_of(value);
}

float TrieView::Order::backoff(uint64_t i) const {
  const uint64_t value = read_bits(records, bit(i) + layout.backoff_at(), layout.backoff_bits);
  return backoff_codes ? backoff_codes[value] : float_of(value);
}

TrieView::TrieView(const Image& image)
    : order(static_cast<int>(image.header().order)),
      vocabulary_size(image.header().vocabulary_size) {
  const Header& header = image.header();
  unigrams = image.section(kUnigrams, 0, (vocabulary_size + 1) * sizeof(TrieUnigramRecord))
                 .as<TrieUnigramRecord>();
  if (header.probability_bits > kMaxCodeBits || header.backoff_bits > kMaxCodeBits)
    throw Error("more than " + std::to_string(kMaxCodeBits) + " bits a code");
  for (int n = 2; n <= order; ++n) {
    Order& level = orders[n];
    level.entries = header.counts[n - 1];
    const uint64_t widths = image.section(kTrie, n).extra;
    TrieLayout& layout = level.layout;
    layout.word_bits = static_cast<int>(widths & 0xFF);
    layout.probability_bits = header.probability_bits ? header.probability_bits : kUnsignedFloatBits;
    if (n < order) {
      layout.backoff_bits = header.backoff_bits ? header.backoff_bits : kFloatBits;
      layout.pointer_bits = static_cast<int>(widths >> 8 & 0xFF);
    }
    if (layout.word_bits < 1 || layout.word_bits > 32 || layout.pointer_bits > kMaxPointerBits ||
        (n < order && layout.pointer_bits < 1) || level.entries > kMaxEntries)
      throw Error("the records of order " + std::to_string(n) + " are damaged");
    level.records = image.section(kTrie, n, trie_bytes(layout, level.entries, n < order)).data;
    if (header.probability_bits)
      level.probability_codes =
          image.section(kProbabilityCodes, n, 4ull << header.probability_bits).as<float>();
    if (header.backoff_bits && n < order)
      level.backoff_codes = image.section(kBackoffCodes, n, 4ull << header.backoff_bits).as<float>();
  }
}

void TrieView::check_values() const {
  for (uint64_t i = 0; i < vocabulary_size; ++i) {
    check_probability(-unigrams[i].probability);
    check_backoff(unigrams[i].backoff);
  }
  for (int n = 2; n <= order; ++n) {
    const Order& level = orders[n];
    for (uint64_t i = 0; i < level.entries; ++i) {
      check_probability(level.probability(i));
      if (n < order) check_backoff(level.backoff(i));
    }
  }
}

TrieView::Range TrieView::children(int n, uint64_t i) const {
  if (n >= order) return {0, 0};
  Range range;
  if (n == 1)
    range = {unigrams[i].first_child, unigrams[i + 1].first_child};
  else
    range = {orders[n].first_child(i), orders[n].first_child(i + 1)};
  return {range.begin, std::min(range.end, orders[n + 1].entries)};
}

WordScore TrieView::full_score(const State& in, WordIndex word, State& out) const {
  if (word >= vocabulary_size) word = 0;
  const int context = in.length < order - 1 ? in.length : order - 1;
  float log10 = -unigrams[word].probability;
  out.words[0] = word;
  out.backoff[0] = unigrams[word].backoff;
  int keep = forgettable(out.backoff[0]) ? 0 : 1;
  int matched = 1;
  Range range = children(1, word);
  for (int n = 2; n <= context + 1 && !range.empty(); ++n) {
    const Order& level = orders[n];
    const uint64_t entry = find(level, range, in.words[n - 2], vocabulary_size);
    if (entry == range.end) break;
    matched = n;
    log10 = level.probability(entry);
    if (n == order) break;
    out.words[n - 1] = in.words[n - 2];
    out.backoff[n - 1] = level.backoff(entry);
    if (!forgettable(out.backoff[n - 1])) keep = n;
    range = children(n, entry);
  }
  out.length = static_cast<uint8_t>(keep < order - 1 ? keep : order - 1);
  for (int i = matched - 1; i < context; ++i) log10 += in.backoff[i];
  return {log10, matched};
}

}  // namespace ctcspeech::ngram
