// Static linear interpolation of two models into one back-off model (Stolcke 2002, SRILM).
//
// The result lists the union of the n-grams. Each has P(w | h) = a P1(w | h) + (1 - a) P2(w | h), where
// a model gives 0 to a word that it does not have (it is not charged to <unk>, or the result would not
// sum to 1), and looks at a context word that it does not have as <unk>. Back-off weights follow from
// the sum over all words being 1:
//
//   backoff(h) = (1 - sum_{w: hw listed} P(w | h)) / (1 - sum_{w: hw listed} P(w | h'))
//
// with h' = h without its oldest word. Where n-grams are not listed the result differs from mixing the
// two models' scores at query time; where they are listed it is equal.
#include <algorithm>
#include <cmath>

#include "ngram/image.h"
#include "ngram/table.h"

namespace ctcspeech::ngram {

namespace {

constexpr float kZero = -99.0f;  // log10 of a probability of zero, by the ARPA format's custom

float log10_of(double p) { return p > 1e-99 ? static_cast<float>(std::log10(p)) : kZero; }

// One of the two models, seen through the numbers of the merged vocabulary.
struct Source {
  std::unique_ptr<Model> model;
  std::vector<WordIndex> number;  // of a merged word, or Vocabulary::kNone

  Source(const Table& table, const Vocabulary& merged)
      : model(Model::from_image(build_probing(table), "the model to be mixed")) {
    for (WordIndex i = 0; i < merged.size(); ++i)
      number.push_back(table.vocabulary.find(merged.word(i)));
  }

  // P(newest word | the others)
  double probability(const WordIndex* newest_first, int n) const {
    if (number[newest_first[0]] == Vocabulary::kNone) return 0.0;
    State state = model->null_state(), next;
    for (int k = n - 1; k > 0; --k) {
      const WordIndex word = number[newest_first[k]];
      model->score(state, word == Vocabulary::kNone ? 0 : word, next);
      state = next;
    }
    return std::pow(10.0, model->score(state, number[newest_first[0]], next));
  }
};

void add_entries(const Table& table, const Vocabulary& merged, int n, Level& level,
                 LevelIndex& index) {
  if (n > table.order()) return;
  std::vector<WordIndex> number;
  for (WordIndex i = 0; i < table.vocabulary.size(); ++i)
    number.push_back(merged.find(table.vocabulary.word(i)));
  const Level& from = table.levels[n - 1];
  WordIndex words[kMaxOrder];
  for (size_t i = 0; i < from.size(); ++i) {
    std::transform(from.entry(i), from.entry(i) + n, words, [&](WordIndex w) { return number[w]; });
    level.push(words, 0.0f, 0.0f);
    if (!index.insert(level.size() - 1)) {  // in the other model too
      level.words.resize(level.words.size() - static_cast<size_t>(n));
      level.probability.pop_back();
      level.backoff.pop_back();
    }
  }
}

// The weights of all contexts of length n, from the probabilities of orders up to n + 1.
void set_backoffs(Table& table, int n, const LevelIndex* contexts) {
  Level& level = table.levels[n - 1];
  const Level& longer = table.levels[n];
  std::vector<double> listed(level.size(), 0.0), shorter(level.size(), 0.0);
  for (size_t i = 0; i < longer.size(); ++i) {
    const WordIndex* words = longer.entry(i);
    const uint64_t suffix = n == 1 ? words[0] : contexts->find(words);
    const uint64_t context = n == 1 ? words[1] : contexts->find(words + 1);
    listed[context] += std::pow(10.0, longer.probability[i]);
    shorter[context] += std::pow(10.0, level.probability[suffix]);
  }
  for (size_t i = 0; i < level.size(); ++i) {
    if (listed[i] == 0.0) continue;
    // Probabilities are floats: what is left of 1 is noise below this.
    const double left = 1.0 - listed[i], below = 1.0 - shorter[i], noise = 1e-6;
    if (below > noise)
      level.backoff[i] = left > noise ? log10_of(left / below) : kZero;
    else
      level.backoff[i] = 0.0f;  // the listed words are all words
  }
}

}  // namespace

std::unique_ptr<Table> mix(const Table& first, const Table& second, double first_weight) {
  auto table = std::make_unique<Table>();
  for (const Table* from : {&first, &second})
    for (WordIndex i = 0; i < from->vocabulary.size(); ++i)
      table->vocabulary.insert(from->vocabulary.word(i));
  table->has_unknown = first.has_unknown || second.has_unknown;
  table->bos = table->vocabulary.find("<s>");
  table->eos = table->vocabulary.find("</s>");

  const Source sources[2] = {{first, table->vocabulary}, {second, table->vocabulary}};
  const int order = std::max(first.order(), second.order());
  std::vector<std::unique_ptr<LevelIndex>> index;
  table->levels.reserve(order);  // LevelIndex refers to its level
  for (int n = 1; n <= order; ++n) {
    Level& level = table->levels.emplace_back(n);
    index.push_back(std::make_unique<LevelIndex>(level));
    if (n == 1)
      for (WordIndex i = 0; i < table->vocabulary.size(); ++i) level.push(&i, 0.0f, 0.0f);
    for (const Table* from : {&first, &second})
      if (n > 1) add_entries(*from, table->vocabulary, n, level, *index.back());
    for (size_t i = 0; i < level.size(); ++i) {
      const WordIndex* words = level.entry(i);
      // <s> is never predicted; models list it with any number, and it is not part of a sum.
      if (words[0] == table->bos)
        level.probability[i] = kZero;
      else
        level.probability[i] = log10_of(first_weight * sources[0].probability(words, n) +
                                        (1.0 - first_weight) * sources[1].probability(words, n));
    }
    if (n > 1) set_backoffs(*table, n - 1, index[n - 2].get());
  }
  table->complete();
  return table;
}

}  // namespace ctcspeech::ngram
