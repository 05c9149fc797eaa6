#include "ngram/probing.h"

#include <cmath>
#include <cstring>

#include "ngram/slots.h"
#include "ngram/table.h"

namespace ctcspeech::ngram {

namespace {

// Buckets for a number of entries: a load of two thirds.
uint64_t buckets_for(uint64_t entries) { return entries * 3 / 2 + 1; }

uint64_t record_size(int n, int order) {
  return n < order ? sizeof(ProbingRecord) : kLongestRecordSize;
}

// The stored form of a probability: its size, with the sign bit set where looking further can succeed.
float pack(float log10, bool extends_left) {
  return std::copysign(std::fabs(log10), extends_left ? -1.0f : 1.0f);
}

// Keys of all entries of a level.
std::vector<uint64_t> level_keys(const Level& level, uint64_t seed) {
  std::vector<uint64_t> keys(level.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    uint64_t key = seed;
    for (int k = 0; k < level.n; ++k) key = extend_key(key, level.entry(i)[k]);
    keys[i] = stored_key(key);
  }
  return keys;
}

// Fills the slots of one order; false where two n-grams have one key.
bool fill_level(const Level& level, const std::vector<uint64_t>& keys, int order,
                uint64_t buckets, unsigned char* slots) {
  const uint64_t size = record_size(level.n, order);
  for (size_t i = 0; i < keys.size(); ++i) {
    unsigned char* slot = slots + bucket_of(keys[i], buckets) * size;
    uint64_t there;
    for (;; slot += size) {
      std::memcpy(&there, slot, 8);
      if (there == 0) break;
      if (there == keys[i]) return false;
    }
    ProbingRecord record{keys[i], 0.0f, 0.0f};
    record.probability =
        pack(level.probability[i], level.n < order && level.extends_left[i] != 0);
    record.backoff = level.backoff[i];
    std::memcpy(slot, &record, size);
  }
  return true;
}

std::unique_ptr<Image> try_seed(const Table& table, uint64_t seed) {
  const int order = table.order();
  Header header{};
  header.kind = static_cast<uint32_t>(Kind::kProbing);
  header.order = static_cast<uint32_t>(order);
  header.bos = table.bos;
  header.eos = table.eos;
  header.flags = table.has_unknown ? kHasUnknown : 0;
  header.vocabulary_size = table.vocabulary.size();
  header.seed = seed;
  for (int n = 1; n <= order; ++n) header.counts[n - 1] = table.levels[n - 1].size();

  ImageBuilder builder(header);
  table.vocabulary.announce(builder);
  builder.announce(kUnigrams, 0, table.vocabulary.size() * sizeof(UnigramRecord));
  for (int n = 2; n <= order; ++n) {
    const Level& level = table.levels[n - 1];
    const uint64_t buckets = buckets_for(level.size());
    const uint64_t extra = overflow_slots(level_keys(level, seed), buckets);
    builder.announce(kProbing, n, (buckets + extra) * record_size(n, order), extra);
  }
  builder.allocate();
  table.vocabulary.fill(builder);
  const Level& words = table.levels[0];
  UnigramRecord* unigrams = builder.section_as<UnigramRecord>(kUnigrams);
  for (size_t i = 0; i < words.size(); ++i)
    unigrams[i] = {pack(words.probability[i], words.extends_left[i] != 0), words.backoff[i]};
  for (int n = 2; n <= order; ++n) {
    const Level& level = table.levels[n - 1];
    if (!fill_level(level, level_keys(level, seed), order, buckets_for(level.size()),
                    builder.section(kProbing, n)))
      return nullptr;
  }
  return builder.finish();
}

}  // namespace

std::unique_ptr<Image> build_probing(const Table& table) {
  for (uint64_t seed = 1;; ++seed)
    if (auto image = try_seed(table, seed)) return image;
}

ProbingView::ProbingView(const Image& image)
    : order(static_cast<int>(image.header().order)),
      vocabulary_size(image.header().vocabulary_size),
      seed(image.header().seed) {
  unigrams = image.section(kUnigrams, 0, vocabulary_size * sizeof(UnigramRecord))
                 .as<UnigramRecord>();
  for (int n = 2; n <= order; ++n) {
    const Section section = image.section(kProbing, n);
    const uint64_t size = record_size(n, order), slots = section.size / size;
    if (section.size % size != 0 || section.extra >= slots)
      throw Error("the table of order " + std::to_string(n) + " is damaged");
    orders[n] = {section.data, slots - section.extra, section.extra};
  }
}

namespace {

const unsigned char* find(const unsigned char* slot, uint64_t extra, uint64_t size, uint64_t key) {
  for (const unsigned char* last = slot + extra * size; slot <= last; slot += size) {
    uint64_t there;
    std::memcpy(&there, slot, 8);
    if (there == key) return slot;
    if (there == 0) return nullptr;
  }
  return nullptr;
}

inline bool forgettable(float backoff) { return backoff == 0.0f && std::signbit(backoff); }

}  // namespace

WordScore ProbingView::full_score(const State& in, WordIndex word, State& out) const {
  if (word >= vocabulary_size) word = 0;
  const int context = in.length < order - 1 ? in.length : order - 1;
  uint64_t keys[kMaxOrder + 1];
  const unsigned char* places[kMaxOrder + 1];
  uint64_t key = extend_key(seed, word);
  for (int n = 2; n <= context + 1; ++n) {
    key = extend_key(key, in.words[n - 2]);
    keys[n] = stored_key(key);
    places[n] = orders[n].slots + bucket_of(keys[n], orders[n].buckets) *
                                      (n < order ? sizeof(ProbingRecord) : kLongestRecordSize);
    __builtin_prefetch(places[n]);
  }

  float probability = unigrams[word].probability;
  out.words[0] = word;
  out.backoff[0] = unigrams[word].backoff;
  int keep = forgettable(out.backoff[0]) ? 0 : 1;
  int matched = 1;
  for (int n = 2; n <= context + 1 && std::signbit(probability); ++n) {
    const bool longest = n == order;
    const unsigned char* slot =
        longest ? find(places[n], orders[n].extra, kLongestRecordSize, keys[n])
                : find(places[n], orders[n].extra, sizeof(ProbingRecord), keys[n]);
    if (!slot) break;
    matched = n;
    std::memcpy(&probability, slot + 8, 4);
    if (longest) break;
    out.words[n - 1] = in.words[n - 2];
    std::memcpy(&out.backoff[n - 1], slot + 12, 4);
    if (!forgettable(out.backoff[n - 1])) keep = n;
  }
  out.length = static_cast<uint8_t>(keep < order - 1 ? keep : order - 1);
  float log10 = -std::fabs(probability);
  for (int i = matched - 1; i < context; ++i) log10 += in.backoff[i];
  return {log10, matched};
}

}  // namespace ctcspeech::ngram
