// Making the trie image of a table, and the table of a trie image.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "ngram/quantize.h"
#include "ngram/table.h"
#include "ngram/trie.h"

namespace ctcspeech::ngram {

namespace {

uint64_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// Words by their hash, <unk> first: then the children of any entry are spread evenly over the
// numbers, as the search wants them. Returns the new number of each word.
std::vector<WordIndex> renumber(const Vocabulary& vocabulary, Vocabulary& renumbered) {
  std::vector<std::pair<uint64_t, WordIndex>> order;
  for (WordIndex i = 1; i < vocabulary.size(); ++i) {
    const std::string_view word = vocabulary.word(i);
    order.emplace_back(hash_bytes(word.data(), word.size()), i);
  }
  std::sort(order.begin(), order.end());
  std::vector<WordIndex> number(vocabulary.size(), 0);
  for (const auto& [hash, old] : order) number[old] = renumbered.insert(vocabulary.word(old));
  return number;
}

// The entries of a level by their new words, newest first.
struct SortedLevel {
  std::vector<uint64_t> order;  // entry numbers of the table
  std::vector<WordIndex> words;  // the level's words, renumbered, in the table's order

  SortedLevel(const Level& level, const std::vector<WordIndex>& number) {
    words.resize(level.words.size());
    std::transform(level.words.begin(), level.words.end(), words.begin(),
                   [&](WordIndex w) { return number[w]; });
    std::vector<std::pair<uint64_t, uint64_t>> keys(level.size());  // two newest words, entry
    const int n = level.n;
    for (size_t i = 0; i < keys.size(); ++i)
      keys[i] = {uint64_t{words[i * n]} << 32 | (n > 1 ? words[i * n + 1] : 0), i};
    std::sort(keys.begin(), keys.end(), [&](const auto& a, const auto& b) {
      if (a.first != b.first) return a.first < b.first;
      const WordIndex *x = &words[a.second * n], *y = &words[b.second * n];
      return std::lexicographical_compare(x, x + n, y, y + n);
    });
    order.resize(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) order[i] = keys[i].second;
  }
};

class TrieBuilder {
 public:
  TrieBuilder(const Table& table, int probability_bits, int backoff_bits)
      : table_(table), order_(table.order()) {
    header_.probability_bits = static_cast<uint8_t>(probability_bits);
    header_.backoff_bits = static_cast<uint8_t>(backoff_bits);
  }

  std::unique_ptr<Image> build() {
    const std::vector<WordIndex> number = renumber(table_.vocabulary, vocabulary_);
    for (const Level& level : table_.levels) sorted_.emplace_back(level, number);
    header_.kind = static_cast<uint32_t>(Kind::kTrie);
    header_.order = static_cast<uint32_t>(order_);
    header_.bos = number[table_.bos];
    header_.eos = number[table_.eos];
    header_.flags = table_.has_unknown ? kHasUnknown : 0;
    header_.vocabulary_size = vocabulary_.size();
    for (int n = 1; n <= order_; ++n) header_.counts[n - 1] = table_.levels[n - 1].size();

    ImageBuilder builder(header_);
    announce(builder);
    builder.allocate();
    vocabulary_.fill(builder);
    fill_unigrams(builder);
    for (int n = 2; n <= order_; ++n) fill_level(builder, n);
    return builder.finish();
  }

 private:
  const Level& level(int n) const { return table_.levels[n - 1]; }

  TrieLayout layout(int n) const {
    TrieLayout result;
    result.word_bits = bits_for(vocabulary_.size() - 1);
    result.probability_bits =
        header_.probability_bits ? header_.probability_bits : kUnsignedFloatBits;
    if (n < order_) {
      result.backoff_bits = header_.backoff_bits ? header_.backoff_bits : kFloatBits;
      result.pointer_bits = bits_for(level(n + 1).size());
    }
    return result;
  }

  void announce(ImageBuilder& builder) const {
    vocabulary_.announce(builder);
    builder.announce(kUnigrams, 0, (vocabulary_.size() + 1) * sizeof(TrieUnigramRecord));
    for (int n = 2; n <= order_; ++n) {
      const TrieLayout fields = layout(n);
      builder.announce(kTrie, n, trie_bytes(fields, level(n).size(), n < order_),
                       static_cast<uint64_t>(fields.word_bits) |
                           static_cast<uint64_t>(fields.pointer_bits) << 8);
      if (header_.probability_bits)
        builder.announce(kProbabilityCodes, n, 4ull << header_.probability_bits);
      if (header_.backoff_bits && n < order_)
        builder.announce(kBackoffCodes, n, 4ull << header_.backoff_bits);
    }
  }

  // Calls visit(place, first child) for the entries of order n in sorted order, and once more for the
  // end. Every n-gram's suffix is listed (Table::complete), so children follow their parents' order.
  template <class Visit>
  void for_children(int n, Visit visit) const {
    const SortedLevel& parents = sorted_[n - 1];
    uint64_t child = 0;
    for (uint64_t place = 0; place < parents.order.size(); ++place) {
      visit(place, child);
      if (n == order_) continue;
      const SortedLevel& longer = sorted_[n];
      const WordIndex* parent = &parents.words[parents.order[place] * n];
      while (child < longer.order.size() &&
             std::equal(parent, parent + n, &longer.words[longer.order[child] * (n + 1)]))
        ++child;
    }
    visit(parents.order.size(), child);
  }

  void fill_unigrams(ImageBuilder& builder) const {
    TrieUnigramRecord* records = builder.section_as<TrieUnigramRecord>(kUnigrams);
    const Level& words = level(1);
    for_children(1, [&](uint64_t place, uint64_t child) {
      if (place < words.size()) {
        const uint64_t i = sorted_[0].order[place];
        records[place] = {std::fabs(words.probability[i]), words.backoff[i], child};
      } else {
        records[place] = {0.0f, 0.0f, child};
      }
    });
  }

  void fill_level(ImageBuilder& builder, int n) const {
    const Level& entries = level(n);
    const TrieLayout fields = layout(n);
    unsigned char* records = builder.section(kTrie, n);
    Codebook probabilities, backoffs;
    auto store = [](const Codebook& book, float* section) {
      std::copy(book.codes().begin(), book.codes().end(), section);
    };
    if (header_.probability_bits) {
      probabilities = Codebook::of_probabilities(entries.probability, header_.probability_bits);
      store(probabilities, builder.section_as<float>(kProbabilityCodes, n));
    }
    if (header_.backoff_bits && n < order_) {
      backoffs = Codebook::of_backoffs(entries.backoff, header_.backoff_bits);
      store(backoffs, builder.section_as<float>(kBackoffCodes, n));
    }
    const SortedLevel& sorted = sorted_[n - 1];
    for_children(n, [&](uint64_t place, uint64_t child) {
      const uint64_t bit = place * static_cast<uint64_t>(fields.record_bits());
      if (n < order_) write_bits(records, bit + fields.pointer_at(), fields.pointer_bits, child);
      if (place == entries.size()) return;
      const uint64_t i = sorted.order[place];
      write_bits(records, bit, fields.word_bits, sorted.words[i * n + n - 1]);
      const float log10 = entries.probability[i], weight = entries.backoff[i];
      write_bits(records, bit + fields.word_bits, fields.probability_bits,
                 header_.probability_bits ? probabilities.encode(log10) : bits_of(std::fabs(log10)));
      if (n < order_)
        write_bits(records, bit + fields.backoff_at(), fields.backoff_bits,
                   header_.backoff_bits ? backoffs.encode(weight) : bits_of(weight));
    });
  }

  const Table& table_;
  const int order_;
  Header header_{};
  Vocabulary vocabulary_;
  std::vector<SortedLevel> sorted_;
};

}  // namespace

std::unique_ptr<Image> build_trie(const Table& table, int probability_bits, int backoff_bits) {
  return TrieBuilder(table, probability_bits, backoff_bits).build();
}

std::unique_ptr<Table> trie_table(const Image& image) {
  const TrieView view(image);
  const VocabularyView words(image);
  auto table = std::make_unique<Table>();
  table->has_unknown = image.header().flags & kHasUnknown;
  table->bos = image.header().bos;
  table->eos = image.header().eos;
  auto damaged = [] { throw Error("the sections are damaged; `ctcspeech lm info --verify` tells"); };

  Level& unigrams = table->levels.emplace_back(1);
  for (WordIndex i = 0; i < view.vocabulary_size; ++i) {
    if (i > 0 && table->vocabulary.insert(words.word(i)) != i) damaged();
    unigrams.push(&i, -view.unigrams[i].probability, view.unigrams[i].backoff);
  }
  for (int n = 2; n <= view.order; ++n) {
    Level longer(n);
    const Level& shorter = table->levels[n - 2];
    WordIndex entry[kMaxOrder];
    for (uint64_t i = 0; i < shorter.size(); ++i) {
      std::copy_n(shorter.entry(i), n - 1, entry);
      const TrieView::Range range = view.children(n - 1, i);
      if (!range.empty() && range.begin != longer.size()) damaged();
      for (uint64_t child = range.begin; child < range.end; ++child) {
        entry[n - 1] = view.orders[n].word(child);
        if (entry[n - 1] >= view.vocabulary_size) damaged();
        longer.push(entry, view.orders[n].probability(child),
                    n < view.order ? view.orders[n].backoff(child) : 0.0f);
      }
    }
    if (longer.size() != view.orders[n].entries) damaged();
    table->levels.push_back(std::move(longer));
  }
  table->complete();
  return table;
}

}  // namespace ctcspeech::ngram
