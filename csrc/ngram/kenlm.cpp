#include "ngram/kenlm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "ngram/probing.h"
#include "ngram/trie.h"

namespace ctcspeech::ngram {

namespace {

constexpr char kMagicText[] = "mmap lm http://kheafield.com/code format version 5\n";
constexpr std::string_view kFamily = "mmap lm http://kheafield.com/code";
constexpr uint64_t kMagicBytes = 56, kMostEntries = 1ull << 40;
enum Kind : uint32_t { kHashed, kHashedRest, kPlain, kQuantised, kSplit, kQuantisedSplit };

class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) throw Error(path + ": " + std::strerror(errno));
    struct stat status {};
    if (fstat(file, &status) == 0 && status.st_size > 0) {
      size_ = static_cast<uint64_t>(status.st_size);
      void* memory = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
      if (memory != MAP_FAILED) data_ = static_cast<const unsigned char*>(memory);
    }
    close(file);
    if (!data_) throw Error(path + ": not a file that can be mapped");
  }
  ~MappedFile() { munmap(const_cast<unsigned char*>(data_), size_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const unsigned char* data_ = nullptr;
  uint64_t size_ = 0;
};

float checked_probability(float log10) {
  check_probability(log10);
  return log10;
}

float checked_backoff(float log10) {
  check_backoff(log10);
  return log10;
}

// Takes sections off the front of the file.
class Reader {
 public:
  Reader(const unsigned char* data, uint64_t size) : data_(data), size_(size) {}

  const unsigned char* take(uint64_t bytes, const char* what) {
    if (bytes > size_ - at_)
      throw Error(std::string("the file ends within ") + what + ": truncated, or damaged");
    const unsigned char* section = data_ + at_;
    at_ += bytes;
    return section;
  }
  template <class T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof value, what), sizeof value);
    return value;
  }
  void align(uint64_t step, const char* what) { take((step - at_ % step) % step, what); }
  uint64_t at() const { return at_; }
  std::string_view rest() const {
    return {reinterpret_cast<const char*>(data_) + at_, size_ - at_};
  }

 private:
  const unsigned char* data_;
  uint64_t size_, at_ = 0;
};

template <class T>
T load(const unsigned char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

struct Head {
  int order = 0;
  float buckets_each = 0;
  uint32_t kind = 0;
  std::vector<uint64_t> counts;  // by n - 1
};

Head read_head(Reader& in) {
  if (std::memcmp(in.take(kMagicBytes, "the header"), kMagicText, sizeof kMagicText) != 0)
    throw Error("a KenLM binary of another format version than 5; build it again with a "
                "build_binary of 2012 or later");
  const float zero = in.number<float>("the header"), one = in.number<float>("the header"),
              half = in.number<float>("the header");
  const uint32_t small = in.number<uint32_t>("the header"), all = in.number<uint32_t>("the header");
  in.take(4, "the header");
  if (zero != 0.0f || one != 1.0f || half != -0.5f || small != 1 || all != 0xFFFFFFFFu ||
      in.number<uint64_t>("the header") != 1)
    throw Error("a KenLM binary from a machine of another byte order or word size");
  Head head;
  head.order = in.number<uint8_t>("the header");
  in.take(3, "the header");
  head.buckets_each = in.number<float>("the header");
  head.kind = in.number<uint32_t>("the header");
  const uint8_t has_words = in.number<uint8_t>("the header");
  in.take(3, "the header");
  const uint32_t version = in.number<uint32_t>("the header");
  if (head.order < 2 || head.order > kMaxOrder)
    throw Error("order " + std::to_string(head.order) + " is not from 2 to " +
                std::to_string(kMaxOrder));
  if (head.kind > kQuantisedSplit || head.kind == kHashedRest)
    throw Error("a KenLM binary of kind " + std::to_string(head.kind) +
                " (with rest costs, or unknown); build it without -r");
  if (version != (head.kind == kHashed ? 0u : 1u))
    throw Error("a KenLM binary whose search has version " + std::to_string(version) +
                ", which is not known");
  if (has_words != 1)
    throw Error("a KenLM binary without its words (build_binary -v); build it with them");
  for (int n = 1; n <= head.order; ++n) {
    head.counts.push_back(in.number<uint64_t>("the header"));
    if (head.counts.back() >= kMostEntries)
      throw Error("a count of " + std::to_string(head.counts.back()) + " n-grams is too large");
  }
  if (head.counts[0] < 1 || head.counts[0] >= kEmptySlot)
    throw Error("a vocabulary of " + std::to_string(head.counts[0]) + " words");
  in.align(8, "the header");
  return head;
}

// The words at the end of the file, by number.
void read_words(Reader& in, uint64_t count, Vocabulary& vocabulary) {
  std::string_view rest = in.rest();
  for (uint64_t i = 0; i < count; ++i) {
    const size_t end = rest.find('\0');
    if (end == rest.npos) throw Error("the file ends within its words: truncated, or damaged");
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    if (i == 0 ? !is_unknown(word) : word.empty() || vocabulary.insert(word) != i)
      throw Error("the list of words is damaged at word " + std::to_string(i));
  }
  if (!rest.empty()) throw Error("more follows after the last word: damaged");
}

WordIndex find_symbol(const Vocabulary& vocabulary, const char* symbol) {
  const WordIndex index = vocabulary.find(symbol);
  if (index == Vocabulary::kNone) throw Error(std::string("no word ") + symbol);
  return index;
}

// ---- probing ------------------------------------------------------------------------------------

uint64_t buckets_for(const Head& head, uint64_t entries) {
  if (!(head.buckets_each > 1.0f && head.buckets_each < 1e3f))
    throw Error("the number of buckets to an n-gram is damaged");
  return std::max(entries + 1, static_cast<uint64_t>(head.buckets_each * static_cast<float>(entries)));
}

// The sign of a stored probability is set where no longer n-gram ends in this one: ours is opposite.
float turned(float stored) {
  checked_probability(-std::fabs(stored));
  return std::signbit(stored) ? std::fabs(stored) : -std::fabs(stored);
}

class HashedModel : public ProbingSource {
 public:
  HashedModel(Reader& in, const Head& head) {
    in.take(4, "the vocabulary");
    // The count of the header leaves <unk> out where the ARPA file did.
    const uint64_t listed = head.counts[0], words = in.number<uint32_t>("the vocabulary");
    if (words != listed && words != listed + 1)
      throw Error("the header announces " + std::to_string(listed) + " words, the vocabulary has " +
                  std::to_string(words));
    header_.order = static_cast<uint32_t>(head.order);
    header_.flags = kKenlmKeys | (words == listed ? kHasUnknown : 0);
    in.take(buckets_for(head, listed) * 12, "the vocabulary");
    const unsigned char* unigrams = in.take((listed + 1) * 8, "the 1-grams");
    for (int n = 2; n <= head.order; ++n) read_order(in, head, n);
    read_words(in, words, vocabulary_);
    for (uint64_t i = 0; i < words; ++i)
      unigrams_.push_back({turned(load<float>(unigrams + i * 8)),
                           checked_backoff(load<float>(unigrams + i * 8 + 4))});
    header_.bos = find_symbol(vocabulary_, "<s>");
    header_.eos = find_symbol(vocabulary_, "</s>");
    header_.vocabulary_size = words;
    std::copy(head.counts.begin(), head.counts.end(), header_.counts);
    header_.counts[0] = words;
  }

  Header header() const override { return header_; }
  const Vocabulary& vocabulary() const override { return vocabulary_; }
  UnigramRecord unigram(uint64_t i) const override { return unigrams_[i]; }
  std::vector<uint64_t> keys(int n) const override {
    std::vector<uint64_t> keys;
    keys.reserve(orders_[n].size());
    for (const ProbingRecord& record : orders_[n]) keys.push_back(record.key);
    return keys;
  }
  ProbingRecord record(int n, uint64_t i) const override { return orders_[n][i]; }

 private:
  void read_order(Reader& in, const Head& head, int n) {
    const uint64_t entries = head.counts[n - 1], buckets = buckets_for(head, entries);
    const uint64_t size = n < head.order ? 16 : 12;
    const unsigned char* slot = in.take(buckets * size, "the n-grams");
    std::vector<ProbingRecord>& records = orders_[n];
    for (uint64_t i = 0; i < buckets; ++i, slot += size) {
      const uint64_t key = load<uint64_t>(slot);
      if (key == 0) continue;
      if (records.size() == entries) break;
      const float backoff = n < head.order ? checked_backoff(load<float>(slot + 12)) : 0.0f;
      const float probability = turned(load<float>(slot + 8));
      records.push_back(
          {stored_key(key), n < head.order ? probability : std::fabs(probability), backoff});
    }
    if (records.size() != entries)
      throw Error("the table of order " + std::to_string(n) + " does not hold the " +
                  std::to_string(entries) + " n-grams that the header announces");
  }

  Header header_{};
  Vocabulary vocabulary_;
  std::vector<UnigramRecord> unigrams_;
  std::vector<ProbingRecord> orders_[kMaxOrder + 1];
};

// ---- trie ---------------------------------------------------------------------------------------

int bits_to_hold(uint64_t largest) { return largest == 0 ? 0 : bits_for(largest); }

struct Codes {
  int probability_bits = 0, backoff_bits = 0;
  std::vector<float> probability[kMaxOrder + 1], backoff[kMaxOrder + 1];
};

std::vector<float> read_codes(Reader& in, int bits) {
  std::vector<float> codes(size_t{1} << bits);
  std::memcpy(codes.data(), in.take(codes.size() * sizeof(float), "the codes"),
              codes.size() * sizeof(float));
  return codes;
}

Codes read_quantisation(Reader& in, const Head& head) {
  Codes codes;
  if (in.number<uint8_t>("the codes") != 2) throw Error("quantised in an unknown way");
  codes.probability_bits = in.number<uint8_t>("the codes");
  codes.backoff_bits = in.number<uint8_t>("the codes");
  in.take(5, "the codes");
  for (const int bits : {codes.probability_bits, codes.backoff_bits})
    if (bits < 1 || bits > kMaxCodeBits) throw Error("codes of " + std::to_string(bits) + " bits");
  for (int n = 2; n <= head.order; ++n) {
    codes.probability[n] = read_codes(in, codes.probability_bits);
    if (n < head.order) codes.backoff[n] = read_codes(in, codes.backoff_bits);
  }
  return codes;
}

// How many high bits of the pointers are taken out of the records: as many as make the file smallest.
int split_bits(uint64_t records, uint64_t largest, int most) {
  const int needed = bits_to_hold(largest);
  int best = 0;
  int64_t least = INT64_MAX;
  for (int bits = 0; bits <= std::min(needed, most); ++bits) {
    const int64_t change = static_cast<int64_t>((largest >> (needed - bits)) * 64) -
                           static_cast<int64_t>(records) * bits;
    if (change < least) {
      least = change;
      best = bits;
    }
  }
  return best;
}

// One order's records.
class Records {
 public:
  Records(Reader& in, const Head& head, const Codes& codes, int n)
      : codes_(codes), n_(n), longest_(n == head.order), entries_(head.counts[n - 1]) {
    word_bits_ = bits_to_hold(head.counts[0]);
    quantised_ = codes.probability_bits > 0;
    probability_bits_ = quantised_ ? codes.probability_bits : kUnsignedFloatBits;
    if (!longest_) {
      backoff_bits_ = quantised_ ? codes.backoff_bits : kFloatBits;
      pointer_bits_ = bits_to_hold(head.counts[n]);
      if (head.kind == kSplit || head.kind == kQuantisedSplit) take_split(in, head.counts[n]);
    }
    stride_ = static_cast<uint64_t>(word_bits_ + probability_bits_ + backoff_bits_ + pointer_bits_);
    records_ = in.take(((entries_ + 1) * stride_ + 7) / 8 + 8, "the n-grams");
  }

  uint64_t entries() const { return entries_; }
  WordIndex word(uint64_t i) const { return static_cast<WordIndex>(bits(i, 0, word_bits_)); }
  float probability(uint64_t i) const {
    if (quantised_) return codes_.probability[n_][bits(i, word_bits_ + backoff_bits_, probability_bits_)];
    const uint32_t sign_less = static_cast<uint32_t>(bits(i, word_bits_, probability_bits_));
    return -load<float>(reinterpret_cast<const unsigned char*>(&sign_less));
  }
  float backoff(uint64_t i) const {
    if (longest_) return 0.0f;
    if (quantised_) return codes_.backoff[n_][bits(i, word_bits_, backoff_bits_)];
    const uint32_t value = static_cast<uint32_t>(bits(i, word_bits_ + probability_bits_, backoff_bits_));
    return load<float>(reinterpret_cast<const unsigned char*>(&value));
  }
  // Of record i; those asked for must come in order.
  uint64_t first_child(uint64_t i) {
    while (high_ + 1 < firsts_ && load<uint64_t>(first_ + (high_ + 1) * 8) <= i) ++high_;
    return high_ << pointer_bits_ | bits(i, static_cast<int>(stride_) - pointer_bits_, pointer_bits_);
  }

 private:
  uint64_t bits(uint64_t i, int at, int width) const {
    return read_bits(records_, i * stride_ + static_cast<uint64_t>(at), width);
  }

  void take_split(Reader& in, uint64_t largest) {
    const int split = split_bits(entries_ + 1, largest, in.rest().size() > 1 ? static_cast<uint8_t>(in.rest()[1]) : 0);
    pointer_bits_ -= split;
    firsts_ = (largest >> pointer_bits_) + 1;
    const uint64_t ahead = (8 - in.at() % 8) % 8;
    in.take(ahead + 8, "the pointers");
    first_ = in.take(firsts_ * 8, "the pointers");
    in.take(7 - ahead, "the pointers");
  }

  const Codes& codes_;
  int n_;
  bool longest_, quantised_ = false;
  uint64_t entries_, stride_ = 0;
  int word_bits_ = 0, probability_bits_ = 0, backoff_bits_ = 0, pointer_bits_ = 0;
  const unsigned char* records_ = nullptr;
  const unsigned char* first_ = nullptr;  // of split pointers: the first record of each high part
  uint64_t firsts_ = 0, high_ = 0;
};

std::unique_ptr<Table> read_trie(Reader& in, const Head& head, Codes& codes) {
  const uint64_t words = head.counts[0];
  in.take(8 + words * 8, "the vocabulary");
  if (head.kind == kQuantised || head.kind == kQuantisedSplit) codes = read_quantisation(in, head);
  const unsigned char* unigrams = in.take((words + 2) * 16, "the 1-grams");
  std::vector<Records> orders;
  for (int n = 2; n <= head.order; ++n) orders.emplace_back(in, head, codes, n);

  auto table = std::make_unique<Table>();
  read_words(in, words, table->vocabulary);
  table->has_unknown = true;
  table->bos = find_symbol(table->vocabulary, "<s>");
  table->eos = find_symbol(table->vocabulary, "</s>");
  Level& first = table->levels.emplace_back(1);
  for (WordIndex i = 0; i < words; ++i)
    first.push(&i, checked_probability(load<float>(unigrams + i * 16ull)),
               checked_backoff(load<float>(unigrams + i * 16ull + 4)));
  for (int n = 2; n <= head.order; ++n) {
    Level longer(n);
    const Level& shorter = table->levels[n - 2];
    Records& records = orders[n - 2];
    auto first_child = [&](uint64_t i) {
      return n == 2 ? load<uint64_t>(unigrams + i * 16 + 8) : orders[n - 3].first_child(i);
    };
    auto damaged = [&] { throw Error("the " + std::to_string(n) + "-grams are damaged"); };
    WordIndex entry[kMaxOrder];
    for (uint64_t i = 0, child = first_child(0); i < shorter.size(); ++i) {
      std::copy_n(shorter.entry(i), n - 1, entry);
      const uint64_t end = first_child(i + 1);
      if (child != longer.size() || end < child || end > records.entries()) damaged();
      for (uint64_t before = 0; child < end; ++child) {
        entry[n - 1] = records.word(child);
        if (entry[n - 1] >= words || entry[n - 1] < before) damaged();
        before = uint64_t{entry[n - 1]} + 1;  // ascending: no n-gram twice
        longer.push(entry, checked_probability(records.probability(child)),
                    checked_backoff(records.backoff(child)));
      }
    }
    if (longer.size() != records.entries()) damaged();
    table->levels.push_back(std::move(longer));
  }
  table->complete();
  return table;
}

}  // namespace

bool is_kenlm(std::string_view head) { return head.substr(0, kFamily.size()) == kFamily; }

KenlmModel read_kenlm(const std::string& path) {
  const MappedFile file(path);
  KenlmModel model;
  try {
    Reader in(file.data_, file.size_);
    const Head head = read_head(in);
    if (head.kind == kHashed) {
      model.image = build_probing(HashedModel(in, head));
    } else {
      Codes codes;
      model.table = read_trie(in, head, codes);
      model.probability_bits = codes.probability_bits;
      model.backoff_bits = codes.backoff_bits;
    }
  } catch (const Error& error) {
    throw Error(path + ": " + error.what());
  }
  return model;
}

}  // namespace ctcspeech::ngram
