#include "ngram/arpa.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ctcspeech::ngram {

bool LineReader::next(std::string_view& line) {
  constexpr size_t kChunk = 1 << 18, kLongestLine = 1 << 24;
  size_t searched = begin_;
  for (;;) {
    const char* start = buffer_.data();
    if (const void* found = end_ > searched
                                ? std::memchr(start + searched, '\n', end_ - searched)
                                : nullptr) {
      size_t stop = static_cast<size_t>(static_cast<const char*>(found) - start);
      line = {start + begin_, stop - begin_};
      begin_ = stop + 1;
      break;
    }
    if (finished_) {
      if (begin_ == end_) return false;
      line = {start + begin_, end_ - begin_};
      begin_ = end_;
      break;
    }
    if (end_ - begin_ > kLongestLine)
      throw Error("line " + std::to_string(number_ + 1) + " is longer than 16 MB: not an ARPA file");
    buffer_.erase(0, begin_);
    end_ -= begin_;
    searched = end_;
    begin_ = 0;
    buffer_.resize(end_ + kChunk);
    const size_t got = refill_(buffer_.data() + end_, kChunk);
    finished_ = got == 0;
    end_ += got;
  }
  ++number_;
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return true;
}

namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f'; }

// The next run of non-space characters, cut off the front of `rest`; empty at the end.
std::string_view next_field(std::string_view& rest) {
  size_t begin = 0;
  while (begin < rest.size() && is_space(rest[begin])) ++begin;
  size_t end = begin;
  while (end < rest.size() && !is_space(rest[end])) ++end;
  const std::string_view field = rest.substr(begin, end - begin);
  rest.remove_prefix(end);
  return field;
}

bool blank(std::string_view line) { return next_field(line).empty(); }

// A decimal number. Up to 19 digits and powers of ten to 22 are exact in double arithmetic, the rest
// (and inf, nan) is strtod's.
bool parse_number(std::string_view field, float& value) {
  const char* p = field.data();
  const char* const end = p + field.size();
  const bool negative = p < end && *p == '-';
  if (p < end && (*p == '-' || *p == '+')) ++p;
  uint64_t digits = 0;
  int count = 0, scale = 0;
  bool any = false;
  for (; p < end && *p >= '0' && *p <= '9'; ++p, any = true) {
    digits = digits * 10 + static_cast<uint64_t>(*p - '0');
    count += digits != 0;
  }
  if (p < end && *p == '.')
    for (++p; p < end && *p >= '0' && *p <= '9'; ++p, any = true, --scale) {
      digits = digits * 10 + static_cast<uint64_t>(*p - '0');
      count += digits != 0;
    }
  static constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                       1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                       1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  if (p == end && any && count <= 15 && scale >= -22) {
    const double magnitude = static_cast<double>(digits) / kPowers[-scale];
    value = static_cast<float>(negative ? -magnitude : magnitude);
    return true;
  }
  if (field.empty() || field.size() > 400) return false;
  const char first = field[field[0] == '-' || field[0] == '+'];  // no hexadecimal floats
  if (field.size() > 1 && first == '0' && (field.find('x') != field.npos || field.find('X') != field.npos))
    return false;
  const std::string text(field);
  char* stop = nullptr;
  const double parsed = std::strtod(text.c_str(), &stop);
  value = static_cast<float>(parsed);
  return stop == text.c_str() + text.size();
}

class ArpaParser {
 public:
  ArpaParser(LineReader& lines, const std::string& name, float unknown)
      : lines_(lines), name_(name), unknown_(unknown), table_(std::make_unique<Table>()) {}

  std::unique_ptr<Table> parse() {
    read_counts();
    table_->levels.reserve(counts_.size());  // an index refers to its level
    index_.resize(counts_.size());
    for (int n = 1; n <= static_cast<int>(counts_.size()); ++n) {
      expect_header(n);
      table_->levels.emplace_back(n);
      if (n == 1)
        read_unigrams();
      else
        read_level(n);
    }
    expect_end();
    table_->complete(std::move(index_));
    return std::move(table_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(name_ + ", line " + std::to_string(lines_.number()) + ": " + what);
  }

  std::string shown(std::string_view text) const {
    return "'" + std::string(text.substr(0, 60)) + (text.size() > 60 ? "...'" : "'");
  }

  // The next line that is not blank; the file must not end.
  std::string_view next_line(const std::string& wanted) {
    std::string_view line;
    while (lines_.next(line))
      if (!blank(line)) return line;
    fail("the file ends where " + wanted + " should follow: truncated?");
  }

  void read_counts() {
    std::string_view line;
    uint64_t seen = 0;  // free text may precede \data\, within reason
    for (;;) {
      if (!lines_.next(line) || (seen += line.size()) > (1 << 20))
        fail("no \\data\\ line: not an ARPA file");
      if (lines_.number() == 1 && line.substr(0, 3) == "\xEF\xBB\xBF") line.remove_prefix(3);
      std::string_view rest = line;
      if (next_field(rest) == "\\data\\" && blank(rest)) break;
    }
    for (;;) {
      line = next_line("the line 'ngram 1=...'");
      std::string_view rest = line;
      std::string_view first = next_field(rest);
      if (first == "\\1-grams:") {
        pending_header_ = true;
        break;
      }
      if (first != "ngram") fail("expected 'ngram N=count' or '\\1-grams:', found " + shown(line));
      read_count(rest, line);
    }
    if (counts_.empty()) fail("no 'ngram 1=...' line before the n-grams");
  }

  // "3=1234", with spaces allowed around the sign.
  void read_count(std::string_view rest, std::string_view line) {
    std::string text;
    for (std::string_view part; !(part = next_field(rest)).empty();) text += part;
    const size_t sign = text.find('=');
    uint64_t n = 0, count = 0;
    auto whole = [](std::string_view digits, uint64_t& value) {
      const auto [stop, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), value);
      return error == std::errc() && stop == digits.data() + digits.size();
    };
    if (sign == std::string::npos || !whole(std::string_view(text).substr(0, sign), n) ||
        !whole(std::string_view(text).substr(sign + 1), count))
      fail("expected 'ngram N=count', found " + shown(line));
    if (n != counts_.size() + 1)
      fail("expected the count of order " + std::to_string(counts_.size() + 1) + ", found " +
           shown(line));
    if (n > kMaxOrder)
      fail("order " + std::to_string(n) + ", but at most " + std::to_string(kMaxOrder) +
           " is supported");
    if (count >= (1ull << 40)) fail("a count of " + std::to_string(count) + " n-grams is too large");
    counts_.push_back(count);
  }

  void expect_header(int n) {
    if (std::exchange(pending_header_, false)) return;
    const std::string wanted = "\\" + std::to_string(n) + "-grams:";
    std::string_view line = next_line("'" + wanted + "'"), rest = line;
    if (next_field(rest) == wanted && blank(rest)) return;
    fail("expected '" + wanted + "' (the header announces " + std::to_string(counts_[n - 2]) + " " +
         std::to_string(n - 1) + "-grams, which precede this line), found " + shown(line));
  }

  void expect_end() {
    const std::string_view line = next_line("'\\end\\'");
    std::string_view rest = line;
    if (next_field(rest) != "\\end\\")
      fail("expected '\\end\\' (the header announces " + std::to_string(counts_.back()) + " " +
           std::to_string(counts_.size()) + "-grams, which precede this line), found " +
           shown(line));
  }

  // An n-gram's line, which must not be the next section's.
  std::string_view entry_line(int n, uint64_t i) {
    const std::string wanted = "the " + std::to_string(n) + "-gram number " + std::to_string(i + 1) +
                               " of " + std::to_string(counts_[n - 1]);
    const std::string_view line = next_line(wanted);
    // A word can begin with a backslash, but a probability cannot.
    std::string_view rest = line;
    if (next_field(rest).front() == '\\')
      fail("expected " + wanted + " as the header announces, found " + shown(line));
    return line;
  }

  float read_probability(std::string_view& rest, std::string_view line) {
    const std::string_view field = next_field(rest);
    float value = 0;
    if (!parse_number(field, value) || std::isnan(value))
      fail("expected a log10 probability, found " + shown(field) + " in " + shown(line));
    if (value > 0)
      fail("log10 probability " + shown(field) + " is above 0 in " + shown(line));
    return value;
  }

  // The last column. May be missing; of the highest order it must be 0 where it is there.
  float read_backoff(std::string_view rest, int n, std::string_view line) {
    const std::string_view field = next_field(rest);
    if (field.empty()) return 0.0f;
    float value = 0;
    if (!parse_number(field, value) || std::isnan(value) || std::isinf(value))
      fail("expected a log10 back-off weight after the " + std::to_string(n) + "-gram, found " +
           shown(field) + " in " + shown(line));
    if (!blank(rest)) fail("more fields than a " + std::to_string(n) + "-gram has in " + shown(line));
    if (n == static_cast<int>(counts_.size()) && value != 0.0f)
      fail("a back-off weight after an n-gram of the highest order in " + shown(line));
    return value;
  }

  void read_unigrams() {
    Level& level = table_->levels[0];
    Vocabulary& vocabulary = table_->vocabulary;
    level.push(&kUnknownWord, unknown_, 0.0f);
    for (uint64_t i = 0; i < counts_[0]; ++i) {
      const std::string_view line = entry_line(1, i);
      std::string_view rest = line;
      const float log10 = read_probability(rest, line);
      const std::string_view word = next_field(rest);
      if (word.empty()) fail("no word in " + shown(line));
      const float backoff = read_backoff(rest, 1, line);
      if (is_unknown(word)) {
        if (std::exchange(table_->has_unknown, true)) fail("<unk> is listed twice");
        level.probability[0] = log10;
        level.backoff[0] = backoff;
        continue;
      }
      const WordIndex index = vocabulary.insert(word);
      if (index == Vocabulary::kNone) fail("the word " + shown(word) + " is listed twice");
      level.push(&index, log10, backoff);
    }
    table_->bos = vocabulary.find("<s>");
    table_->eos = vocabulary.find("</s>");
    for (const auto& [index, word] : {std::pair(table_->bos, "<s>"), {table_->eos, "</s>"}})
      if (index == Vocabulary::kNone)
        fail(std::string("the 1-grams, which end here, do not list ") + word +
             "; add it, for example as '-99\t" + word + "'");
  }

  void read_level(int n) {
    Level& level = table_->levels[n - 1];
    index_[n - 1] = std::make_unique<LevelIndex>(level, std::min<uint64_t>(counts_[n - 1], 1 << 20));
    for (uint64_t i = 0; i < counts_[n - 1]; ++i) {
      const std::string_view line = entry_line(n, i);
      std::string_view rest = line;
      const float log10 = read_probability(rest, line);
      WordIndex words[kMaxOrder];
      for (int k = n - 1; k >= 0; --k) {
        const std::string_view word = next_field(rest);
        if (word.empty()) fail("fewer than " + std::to_string(n) + " words in " + shown(line));
        words[k] = word_number(word, k);
        if (words[k] == Vocabulary::kNone)
          fail("the word " + shown(word) + " is not among the 1-grams");
      }
      level.push(words, log10, read_backoff(rest, n, line));
      if (!index_[n - 1]->insert(level.size() - 1))
        fail("an n-gram that is listed twice: " + shown(line));
    }
  }

  // The number of a word in place k. Files are sorted, by the first words or the last: often it is
  // the word which stood there in the line before.
  WordIndex word_number(std::string_view word, int k) {
    auto& [before, number] = last_[k];
    if (word != before) {
      number = is_unknown(word) ? 0 : table_->vocabulary.find(word);
      before = word;
    }
    return number;
  }

  static constexpr WordIndex kUnknownWord = 0;
  LineReader& lines_;
  const std::string& name_;
  const float unknown_;
  std::vector<uint64_t> counts_;
  bool pending_header_ = false;
  std::vector<std::unique_ptr<LevelIndex>> index_;
  std::pair<std::string, WordIndex> last_[kMaxOrder];
  std::unique_ptr<Table> table_;
};

}  // namespace

std::unique_ptr<Table> read_arpa(LineReader& lines, const std::string& name, float unknown) {
  return ArpaParser(lines, name, unknown).parse();
}

namespace {

void append_number(std::string& text, float value) {
  if (std::isinf(value)) {
    text += value < 0 ? "-inf" : "inf";
    return;
  }
  if (value == 0.0f) value = 0.0f;  // no sign
  char digits[32];
#ifdef __cpp_lib_to_chars
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);
  (void)error;  // 32 characters hold any float
  text.append(digits, end);
#else
  text.append(digits, static_cast<size_t>(std::snprintf(digits, sizeof digits, "%.9g", value)));
#endif
}

}  // namespace

void write_arpa(const Table& table, const std::function<void(std::string_view)>& write) {
  constexpr size_t kPiece = 1 << 20;
  std::string text = "\\data\\\n";
  for (const Level& level : table.levels)
    text += "ngram " + std::to_string(level.n) + "=" + std::to_string(level.size()) + "\n";
  for (const Level& level : table.levels) {
    text += "\n\\" + std::to_string(level.n) + "-grams:\n";
    for (size_t i = 0; i < level.size(); ++i) {
      append_number(text, level.probability[i]);
      for (int k = level.n - 1; k >= 0; --k) {
        text += k == level.n - 1 ? '\t' : ' ';
        text += table.vocabulary.word(level.entry(i)[k]);
      }
      if (level.n < table.order() && level.backoff[i] != 0.0f) {
        text += '\t';
        append_number(text, level.backoff[i]);
      }
      text += '\n';
      if (text.size() > kPiece) {
        write(text);
        text.clear();
      }
    }
  }
  text += "\n\\end\\\n";
  write(text);
}

}  // namespace ctcspeech::ngram
