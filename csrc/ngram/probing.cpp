#include "ngram/probing.h"

#include <cmath>
#include <cstring>

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

// A table under the keys of one seed.
class TableSource : public ProbingSource {
 public:
  TableSource(const Table& table, uint64_t seed) : table_(table), seed_(seed) {}

  Header header() const override {
    Header header{};
    header.order = static_cast<uint32_t>(table_.order());
    header.bos = table_.bos;
    header.eos = table_.eos;
    header.flags = table_.has_unknown ? kHasUnknown : 0;
    header.vocabulary_size = table_.vocabulary.size();
    header.seed = seed_;
    for (int n = 1; n <= table_.order(); ++n) header.counts[n - 1] = table_.levels[n - 1].size();
    return header;
  }
  const Vocabulary& vocabulary() const override { return table_.vocabulary; }
  UnigramRecord unigram(uint64_t i) const override {
    const Level& words = table_.levels[0];
    return {pack(words.probability[i], words.extends_left[i] != 0), words.backoff[i]};
  }
  std::vector<uint64_t> keys(int n) const override {
    const Level& level = table_.levels[n - 1];
    std::vector<uint64_t> keys(level.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      uint64_t key = seed_;
      for (int k = 0; k < n; ++k) key = extend_key(key, level.entry(i)[k]);
      keys[i] = stored_key(key);
    }
    return keys;
  }
  ProbingRecord record(int n, uint64_t i) const override {
    const Level& level = table_.levels[n - 1];
    const bool extends_left = n < table_.order() && level.extends_left[i] != 0;
    return {0, pack(level.probability[i], extends_left), level.backoff[i]};
  }

 private:
  const Table& table_;
  uint64_t seed_;
};

// Fills the slots of one order; false where two n-grams have one key.
bool fill_order(const ProbingSource& source, int n, int order, uint64_t buckets,
                unsigned char* slots) {
  const std::vector<uint64_t> keys = source.keys(n);
  const uint64_t size = record_size(n, order);
  for (size_t i = 0; i < keys.size(); ++i) {
    unsigned char* slot = slots + bucket_of(keys[i], buckets) * size;
    uint64_t there;
    for (;; slot += size) {
      std::memcpy(&there, slot, 8);
      if (there == 0) break;
      if (there == keys[i]) return false;
    }
    ProbingRecord record = source.record(n, i);
    record.key = keys[i];
    std::memcpy(slot, &record, size);
  }
  return true;
}

// Null where two n-grams have one key.
std::unique_ptr<Image> try_build(const ProbingSource& source) {
  Header header = source.header();
  header.kind = static_cast<uint32_t>(Kind::kProbing);
  const int order = static_cast<int>(header.order);
  ImageBuilder builder(header);
  source.vocabulary().announce(builder);
  builder.announce(kUnigrams, 0, header.vocabulary_size * sizeof(UnigramRecord));
  for (int n = 2; n <= order; ++n) {
    const uint64_t buckets = buckets_for(header.counts[n - 1]);
    const uint64_t extra = overflow_slots(source.keys(n), buckets);
    builder.announce(kProbing, static_cast<uint32_t>(n), (buckets + extra) * record_size(n, order),
                     extra);
  }
  builder.allocate();
  source.vocabulary().fill(builder);
  UnigramRecord* unigrams = builder.section_as<UnigramRecord>(kUnigrams);
  for (uint64_t i = 0; i < header.vocabulary_size; ++i) unigrams[i] = source.unigram(i);
  for (int n = 2; n <= order; ++n)
    if (!fill_order(source, n, order, buckets_for(header.counts[n - 1]),
                    builder.section(kProbing, static_cast<uint32_t>(n))))
      return nullptr;
  return builder.finish();
}

}  // namespace

std::unique_ptr<Image> build_probing(const Table& table) {
  for (uint64_t seed = 1;; ++seed)
    if (auto image = try_build(TableSource(table, seed))) return image;
}

std::unique_ptr<Image> build_probing(const ProbingSource& source) {
  auto image = try_build(source);
  if (!image) throw Error("two n-grams have one key: damaged");
  return image;
}

ProbingView::ProbingView(const Image& image)
    : order(static_cast<int>(image.header().order)),
      vocabulary_size(image.header().vocabulary_size),
      seed(image.header().seed),
      kenlm_keys((image.header().flags & kKenlmKeys) != 0) {
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

void ProbingView::check_values() const {
  for (uint64_t i = 0; i < vocabulary_size; ++i) {
    check_probability(-std::fabs(unigrams[i].probability));
    check_backoff(unigrams[i].backoff);
  }
  for (int n = 2; n <= order; ++n) {
    const uint64_t size = record_size(n, order), slots = orders[n].buckets + orders[n].extra;
    ProbingRecord record{0, 0.0f, 0.0f};
    for (uint64_t i = 0; i < slots; ++i) {
      std::memcpy(&record, orders[n].slots + i * size, size);
      if (record.key == 0) continue;
      check_probability(-std::fabs(record.probability));
      check_backoff(record.backoff);
    }
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

template <bool kKenlmKeys>
WordScore ProbingView::score(const State& in, WordIndex word, State& out) const {
  if (word >= vocabulary_size) word = 0;
  const int context = in.length < order - 1 ? in.length : order - 1;
  uint64_t keys[kMaxOrder + 1];
  const unsigned char* places[kMaxOrder + 1];
  uint64_t key = kKenlmKeys ? word : extend_key(seed, word);
  for (int n = 2; n <= context + 1; ++n) {
    key = kKenlmKeys ? kenlm_extend_key(key, in.words[n - 2]) : extend_key(key, in.words[n - 2]);
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

template WordScore ProbingView::score<false>(const State&, WordIndex, State&) const;
template WordScore ProbingView::score<true>(const State&, WordIndex, State&) const;

}  // namespace ctcspeech::ngram
