#include <charconv>
#include <cmath>
#include <cstdio>

#include "ngram/arpa.h"

namespace ctcspeech::ngram {

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
