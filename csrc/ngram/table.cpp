#include "ngram/table.h"

#include <algorithm>
#include <limits>

namespace ctcspeech::ngram {

namespace {
constexpr int kIndexBits = 40;
constexpr uint64_t kIndexMask = (1ull << kIndexBits) - 1;
}  // namespace

LevelIndex::LevelIndex(const Level& level, uint64_t expected) : level_(level) {
  uint64_t slots = 64;
  while (slots < std::max<uint64_t>(expected, level.size()) * 3 / 2) slots *= 2;
  rebuild(slots);
}

uint64_t LevelIndex::hash(const WordIndex* words) const {
  uint64_t key = 0;
  for (int i = 0; i < level_.n; ++i) key = extend_key(key, words[i]);
  return stored_key(key);
}

void LevelIndex::rebuild(uint64_t slots) {
  slots_.assign(slots, kNone);
  mask_ = slots - 1;
  used_ = 0;
  for (uint64_t i = 0; i < level_.size(); ++i) insert(i);
}

uint64_t LevelIndex::find(const WordIndex* words) const {
  const uint64_t h = hash(words), tag = h >> kIndexBits << kIndexBits;
  for (uint64_t at = h;; ++at) {
    const uint64_t slot = slots_[at & mask_];
    if (slot == kNone) return kNone;
    if ((slot & ~kIndexMask) == tag &&
        std::equal(words, words + level_.n, level_.entry(slot & kIndexMask)))
      return slot & kIndexMask;
  }
}

bool LevelIndex::insert(uint64_t i) {
  if ((used_ + 1) * 3 / 2 > slots_.size()) {
    // rebuild() enters every entry of the level, this one among them.
    const uint64_t before = used_;
    rebuild(slots_.size() * 2);
    return used_ > before;
  }
  const WordIndex* words = level_.entry(i);
  const uint64_t h = hash(words), tag = h >> kIndexBits << kIndexBits;
  uint64_t at = h;
  for (; slots_[at & mask_] != kNone; ++at) {
    const uint64_t slot = slots_[at & mask_];
    if ((slot & ~kIndexMask) == tag &&
        std::equal(words, words + level_.n, level_.entry(slot & kIndexMask)))
      return false;
  }
  slots_[at & mask_] = tag | i;
  ++used_;
  return true;
}

namespace {

// Probability of an entry that was added: backoff(context) + P(newest | shorter context).
void fill_added(std::vector<Level>& levels, const std::vector<std::unique_ptr<LevelIndex>>& index,
                const std::vector<size_t>& listed) {
  for (int n = 2; n <= static_cast<int>(levels.size()); ++n) {
    Level& level = levels[n - 1];
    const Level& shorter = levels[n - 2];
    for (size_t i = listed[n - 1]; i < level.size(); ++i) {
      const WordIndex* words = level.entry(i);
      const uint64_t suffix = n == 2 ? words[0] : index[n - 2]->find(words);
      const uint64_t context = n == 2 ? words[1] : index[n - 2]->find(words + 1);
      level.probability[i] =
          std::min(0.0f, shorter.probability[suffix] + shorter.backoff[context]);
    }
  }
}

}  // namespace

void Table::complete(std::vector<std::unique_ptr<LevelIndex>> index) {
  const int top = order();
  std::vector<size_t> listed(top);
  index.resize(top);
  for (int n = 1; n <= top; ++n) {
    Level& level = levels[n - 1];
    listed[n - 1] = level.size();
    for (float& weight : level.backoff)
      if (weight == 0.0f) weight = -0.0f;
    level.extends_left.assign(level.size(), 0);
    if (n >= 2 && n < top && !index[n - 1]) index[n - 1] = std::make_unique<LevelIndex>(level);
  }
  for (int n = top; n >= 2; --n) {
    const Level& level = levels[n - 1];
    Level& shorter = levels[n - 2];
    auto entry_of = [&](const WordIndex* words) -> uint64_t {
      if (n == 2) return words[0];
      const uint64_t found = index[n - 2]->find(words);
      if (found != LevelIndex::kNone) return found;
      shorter.push(words, 0.0f, -0.0f);
      shorter.extends_left.push_back(0);
      index[n - 2]->insert(shorter.size() - 1);
      return shorter.size() - 1;
    };
    for (size_t i = 0; i < level.size(); ++i) {
      shorter.extends_left[entry_of(level.entry(i))] = 1;
      float& weight = shorter.backoff[entry_of(level.entry(i) + 1)];
      if (weight == 0.0f) weight = 0.0f;  // the sign: this context has a continuation
    }
  }
  fill_added(levels, index, listed);
}

}  // namespace ctcspeech::ngram
