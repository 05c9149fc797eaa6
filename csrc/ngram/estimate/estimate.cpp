#include "ngram/estimate/estimate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace ctcspeech::ngram {

namespace {

constexpr uint32_t kUnk = 0, kBos = 1, kEos = 2;
constexpr uint64_t kPruned = uint64_t{1} << 63;  // marks an adjusted count

struct Discounted {
  float probability;  // (a(ctx w) - D(a(ctx w))) / sum over x of a(ctx x)
  float gamma;        // the weight of the lower order behind this context
};

template <class T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\0'; }

}  // namespace

// A hash table of the n-grams of the highest order, words in reverse.
struct Estimator::Counts {
  const size_t order, record_words;  // the count takes two words
  const size_t most;                 // bytes that it may grow to
  MemoryBudget& budget;
  size_t charged = 0;
  std::vector<uint32_t> records;
  std::vector<uint32_t> slots;
  static constexpr uint32_t kEmpty = 0xFFFFFFFFu;
  static constexpr size_t kFirstSlots = size_t{1} << 16;

  Counts(int n, MemoryBudget& memory)
      : order(n), record_words(n + 2), most(memory.limit / 3), budget(memory) {
    grow();
  }
  ~Counts() { budget.used -= charged; }

  size_t size() const { return records.size() / record_words; }
  // No room for another n-gram within the limit: growing holds two tables for a moment.
  bool full() const {
    return 2 * (size() + 1) > slots.size() && 2 * charged + charged / 2 > most &&
           slots.size() > kFirstSlots;
  }
  void grow() {
    const size_t capacity = slots.empty() ? kFirstSlots : 2 * slots.size();
    records.reserve((capacity / 2 + 1) * record_words);
    std::vector<uint32_t>().swap(slots);
    rehash(capacity);
    budget.used -= charged;
    charged = (records.capacity() + slots.capacity()) * sizeof(uint32_t);
    budget.used += charged;
  }

  uint64_t hash(const uint32_t* words) const {
    uint64_t h = 0;
    for (size_t i = 0; i < order; ++i) h = (h ^ words[i]) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
    return h;
  }

  void add(const uint32_t* words) {
    const size_t mask = slots.size() - 1;
    for (size_t s = hash(words) & mask;; s = (s + 1) & mask) {
      if (slots[s] == kEmpty) {
        insert(words, s);
        return;
      }
      uint32_t* record = &records[slots[s] * record_words];
      if (std::memcmp(record, words, order * 4) == 0) {
        uint64_t count;
        std::memcpy(&count, record + order, 8);
        ++count;
        std::memcpy(record + order, &count, 8);
        return;
      }
    }
  }

  void insert(const uint32_t* words, size_t slot) {
    slots[slot] = static_cast<uint32_t>(size());
    records.insert(records.end(), words, words + order);
    const uint64_t one = 1;
    uint32_t halves[2];
    std::memcpy(halves, &one, 8);
    records.insert(records.end(), halves, halves + 2);
    if (2 * size() > slots.size()) grow();
  }

  void rehash(size_t capacity) {
    slots.assign(capacity, kEmpty);
    for (size_t i = 0; i < size(); ++i) {
      size_t s = hash(&records[i * record_words]) & (capacity - 1);
      while (slots[s] != kEmpty) s = (s + 1) & (capacity - 1);
      slots[s] = static_cast<uint32_t>(i);
    }
  }

  void empty_into(RecordSorter& sorter) {
    for (size_t i = 0; i < size(); ++i) {
      const uint32_t* record = &records[i * record_words];
      sorter.add(record, record + order);
    }
    records.clear();
    std::fill(slots.begin(), slots.end(), kEmpty);
  }
};

Estimator::Estimator(EstimateOptions options)
    : options_(std::move(options)), budget_{options_.memory}, statistics_(options_.order) {
  options_.prune.resize(options_.order, options_.prune.empty() ? 0 : options_.prune.back());
  for (const char* symbol : {"<unk>", "<s>", "</s>"}) words_.add(symbol);
  word_counts_.resize(3);
  counts_ = std::make_unique<Counts>(options_.order, budget_);
  full_order_ = std::make_unique<RecordSorter>(options_.order, sizeof(uint64_t),
                                               options_.temp_folder, budget_);
}

Estimator::~Estimator() = default;

void Estimator::start_stage(uint64_t total) {
  done_.store(0);
  total_.store(total);
}

void Estimator::step() {
  const uint64_t done = done_.load(std::memory_order_relaxed) + 1;
  done_.store(done, std::memory_order_relaxed);
  if ((done & 0xFFFF) == 0 && cancelled_.load(std::memory_order_relaxed))
    throw EstimateError("cancelled");
}

// ---- counting -------------------------------------------------------------------------------------

void Estimator::add_text(const char* data, size_t size) {
  const char* const end = data + size;
  while (data < end) {
    const char* newline = static_cast<const char*>(std::memchr(data, '\n', end - data));
    if (newline == nullptr) {
      partial_line_.append(data, end);
      return;
    }
    if (partial_line_.empty()) {
      add_line({data, static_cast<size_t>(newline - data)});
    } else {
      partial_line_.append(data, newline);
      add_line(partial_line_);
      partial_line_.clear();
    }
    data = newline + 1;
  }
}

void Estimator::add_line(std::string_view line) {
  const size_t N = options_.order;
  uint32_t window[64];  // the latest N words, the latest first
  std::fill(window, window + N, kBos);
  const auto push = [&](uint32_t word) {
    std::memmove(window + 1, window, (N - 1) * sizeof *window);
    window[0] = word;
    if (counts_->full()) {
      counts_->empty_into(*full_order_);
      charge_words();
    }
    counts_->add(window);
    ++word_counts_[word];
  };
  for (size_t i = 0; i < line.size();) {
    while (i < line.size() && is_blank(line[i])) ++i;
    size_t j = i;
    while (j < line.size() && !is_blank(line[j])) ++j;
    if (j == i) break;
    const uint32_t word = words_.add(line.substr(i, j - i));
    i = j;
    if (word <= kEos) {
      if (options_.skip_symbols) continue;
      throw EstimateError("line " + std::to_string(sentences_ + 1) + " of the text holds \"" +
                          std::string(words_[word]) +
                          "\", which a model uses itself: remove it, or have such symbols skipped");
    }
    if (word >= word_counts_.size()) word_counts_.resize(word + 1);
    push(word);
    ++tokens_;
  }
  push(kEos);
  ++sentences_;
}

// What the words take, and will take in the next stages, is no longer there for n-grams.
void Estimator::charge_words() {
  const size_t each = sizeof(uint64_t) * 2 + sizeof(float) + sizeof(uint8_t);
  const size_t now = words_.bytes() + words_.size() * each;
  budget_.used += now - charged_for_words_;
  charged_for_words_ = now;
}

void Estimator::finish_text() {
  if (!partial_line_.empty()) add_line(partial_line_);
  partial_line_ = {};
  if (sentences_ == 0) throw EstimateError("the text is empty");
  counts_->empty_into(*full_order_);
  counts_.reset();
  charge_words();
  full_order_->finish();
  bytes_on_disk_ += full_order_->bytes_on_disk();
  limit_vocabulary();
}

void Estimator::limit_vocabulary() {
  if (options_.has_vocabulary) {
    in_vocabulary_.assign(words_.size(), 0);
    for (const std::string& word : options_.vocabulary) {
      const uint32_t id = words_.find(word);
      if (id < words_.size()) in_vocabulary_[id] = 1;
    }
  }
  const uint64_t most = options_.vocabulary_size;
  if (most > 0 && most + 3 < words_.size()) {
    if (in_vocabulary_.empty()) in_vocabulary_.assign(words_.size(), 1);
    std::vector<uint32_t> order(words_.size() - 3);
    std::iota(order.begin(), order.end(), 3);
    std::stable_sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
      return word_counts_[a] > word_counts_[b];
    });
    for (size_t i = most; i < order.size(); ++i) in_vocabulary_[order[i]] = 0;
  }
  if (!in_vocabulary_.empty()) in_vocabulary_[kUnk] = in_vocabulary_[kBos] = in_vocabulary_[kEos] = 1;
}

// ---- adjusted counts ------------------------------------------------------------------------------

// Walks through the n-grams of the highest order sorted by their last word first, where those with
// the same last n words stand together, and closes each such group when it ends. The adjusted count
// of an n-gram is the number of different words met before it; at the highest order, and after <s>,
// before which nothing stands, the number of times it was met (Heafield et al. 2013, section 3.2).
struct Estimator::Adjuster {
  Estimator& e;
  const int N;
  std::vector<uint32_t> previous;       // words in reverse
  std::vector<uint64_t> met, preceding; // of the open group of each order; [order]
  std::vector<uint32_t> key;

  explicit Adjuster(Estimator& estimator)
      : e(estimator), N(e.options_.order), met(N + 1), preceding(N + 1), key(N) {}

  void add(const uint32_t* words, uint64_t count) {
    int same = 0;
    if (!previous.empty())
      while (same < N && words[same] == previous[same]) ++same;
    if (!previous.empty()) close(same);
    previous.assign(words, words + N);
    met[N] += count;
  }

  void close(int same) {
    for (int n = N; n > same; --n) {
      const bool padding = n >= 2 && previous[n - 1] == kBos && previous[n - 2] == kBos;
      if (!padding) {
        const bool raw = n == N || previous[n - 1] == kBos;
        emit(n, raw ? met[n] : preceding[n], met[n]);
      }
      met[n - 1] += met[n];
      ++preceding[n - 1];
      met[n] = preceding[n] = 0;
    }
  }

  void emit(int n, uint64_t adjusted, uint64_t times_met) {
    bool pruned = times_met <= e.options_.prune[n - 1];
    if (!e.in_vocabulary_.empty())
      for (int i = 0; i < n; ++i) pruned |= !e.in_vocabulary_[previous[i]];
    OrderStatistics& statistics = e.statistics_[n - 1];
    ++statistics.types;
    statistics.kept += !pruned;
    if (adjusted < statistics.with_count.size()) ++statistics.with_count[adjusted];
    const uint64_t value = adjusted | (pruned ? kPruned : 0);
    if (n == 1) {
      e.unigram_counts_[previous[0]] = value;
      return;
    }
    std::copy(previous.begin() + 1, previous.begin() + n, key.begin());
    key[n - 1] = previous[0];
    e.by_context_[n - 1]->add(key.data(), &value);
  }
};

void Estimator::adjust() {
  const int N = options_.order;
  unigram_counts_.assign(words_.size(), 0);
  by_context_.resize(N);
  for (int n = 2; n <= N; ++n)
    by_context_[n - 1] =
        std::make_unique<RecordSorter>(n, sizeof(uint64_t), options_.temp_folder, budget_);
  start_stage(full_order_->size());
  Adjuster adjuster(*this);
  while (const std::byte* record = full_order_->next()) {
    adjuster.add(RecordSorter::words(record), read<uint64_t>(full_order_->payload(record)));
    step();
  }
  adjuster.close(0);
  full_order_.reset();
  for (int n = 2; n <= N; ++n) {
    by_context_[n - 1]->finish();
    bytes_on_disk_ += by_context_[n - 1]->bytes_on_disk();
  }
  statistics_[0].types += 2;  // <unk> and <s>, which are never counted
  statistics_[0].kept += 2;
  for (int n = 1; n <= N; ++n) estimate_discounts(n);
}

// D_k = k - (k + 1) Y t_(k+1) / t_k with Y = t_1 / (t_1 + 2 t_2), t_k the number of n-grams whose
// adjusted count is k (Chen and Goodman 1998, equation 26).
void Estimator::estimate_discounts(int order) {
  OrderStatistics& statistics = statistics_[order - 1];
  const auto& t = statistics.with_count;
  bool good = t[1] > 0 && t[2] > 0 && t[3] > 0;
  if (good) {
    const double y = double(t[1]) / (double(t[1]) + 2.0 * double(t[2]));
    for (int k = 1; k <= 3; ++k) {
      const double d = k - (k + 1) * y * double(t[k + 1]) / double(t[k]);
      good &= d >= 0 && d <= k;
      statistics.discounts[k] = d;
    }
  }
  if (good) return;
  if (options_.has_fallback) {
    statistics.discounts = options_.fallback;
    return;
  }
  throw EstimateError(
      "the counts of order " + std::to_string(order) + " give no Kneser-Ney discounts (" +
      std::to_string(t[1]) + ", " + std::to_string(t[2]) + ", " + std::to_string(t[3]) + ", " +
      std::to_string(t[4]) +
      " n-grams with adjusted counts 1, 2, 3, 4): the text is too short, or not natural text; "
      "give more text, a lower order, or --discount-fallback");
}

// ---- normalisation --------------------------------------------------------------------------------

namespace {

// The sums over the n-grams that share a context. What pruning takes away goes to the lower order,
// so that the model still sums to one.
struct ContextSums {
  uint64_t total = 0;
  uint64_t pruned = 0;
  std::array<uint64_t, 4> with_count{};  // not pruned; [3]: 3 or more

  void add(uint64_t value) {
    const uint64_t count = value & ~kPruned;
    total += count;
    if (value & kPruned)
      pruned += count;
    else
      ++with_count[std::min<uint64_t>(count, 3)];
  }
  double gamma(const Discounts& d) const {
    double mass = double(pruned);
    for (int k = 1; k <= 3; ++k) mass += d[k] * double(with_count[k]);
    return mass / double(total);
  }
  double probability(uint64_t count, const Discounts& d) const {
    return (double(count) - d[std::min<uint64_t>(count, 3)]) / double(total);
  }
};

}  // namespace

void Estimator::normalize() {
  const int N = options_.order;
  uint64_t total = 0;
  for (int n = 2; n <= N; ++n) total += by_context_[n - 1]->size();
  start_stage(total);
  by_suffix_.resize(N);
  backoffs_.resize(N);
  normalize_unigrams();
  for (int n = 2; n <= N; ++n) normalize_order(n);
}

// Unigrams are interpolated with the uniform distribution over the vocabulary with <unk> and </s>.
void Estimator::normalize_unigrams() {
  const Discounts& d = statistics_[0].discounts;
  ContextSums sums;
  for (uint32_t w = kEos; w < words_.size(); ++w) sums.add(unigram_counts_[w]);
  const double uniform = sums.gamma(d) / double(statistics_[0].kept - 1);  // all but <s>
  unigram_probability_.assign(words_.size(), 0);
  for (uint32_t w = 0; w < words_.size(); ++w) {
    if (w == kBos || (unigram_counts_[w] & kPruned)) continue;
    const double own = w == kUnk ? 0.0 : sums.probability(unigram_counts_[w], d);
    unigram_probability_[w] = static_cast<float>(own + uniform);
  }
}

void Estimator::normalize_order(int n) {
  RecordSorter& input = *by_context_[n - 1];
  by_suffix_[n - 1] =
      std::make_unique<RecordSorter>(n, sizeof(Discounted), options_.temp_folder, budget_);
  backoffs_[n - 2] = std::make_unique<RecordSorter>(n - 1, sizeof(float), options_.temp_folder,
                                                    budget_, /*presorted=*/true);
  RecordSorter& suffixes = *by_suffix_[n - 1];
  const Discounts& d = statistics_[n - 1].discounts;

  std::vector<uint32_t> context(n - 1), reversed(n);
  std::vector<std::pair<uint32_t, uint64_t>> group;  // last word, marked count
  ContextSums sums;
  const auto close = [&] {
    if (group.empty()) return;
    const float gamma = static_cast<float>(sums.gamma(d));
    backoffs_[n - 2]->add(context.data(), &gamma);
    std::copy(context.begin(), context.end(), reversed.begin() + 1);
    for (const auto& [word, value] : group) {
      if (value & kPruned) continue;
      reversed[0] = word;
      const Discounted out{static_cast<float>(sums.probability(value, d)), gamma};
      suffixes.add(reversed.data(), &out);
    }
    group.clear();
    sums = {};
  };
  while (const std::byte* record = input.next()) {
    const uint32_t* words = RecordSorter::words(record);
    if (group.empty() || !std::equal(context.begin(), context.end(), words)) {
      close();
      context.assign(words, words + n - 1);
    }
    const uint64_t value = read<uint64_t>(input.payload(record));
    group.emplace_back(words[n - 1], value);
    sums.add(value);
    step();
  }
  close();
  by_context_[n - 1].reset();
  suffixes.finish();
  backoffs_[n - 2]->finish();
  bytes_on_disk_ += suffixes.bytes_on_disk() + backoffs_[n - 2]->bytes_on_disk();
}

}  // namespace ctcspeech::ngram
