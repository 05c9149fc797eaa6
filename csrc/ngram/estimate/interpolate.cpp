// The last stage of estimation: p(w | ctx) = u(w | ctx) + gamma(ctx) p(w | ctx without its first
// word), written as an ARPA file.
#include <charconv>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "ngram/estimate/estimate.h"

namespace ctcspeech::ngram {

namespace {

constexpr uint32_t kBos = 1;

class TextFile {
 public:
  explicit TextFile(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "wb")) {
    if (file_ == nullptr) fail();
  }
  ~TextFile() {
    if (file_ != nullptr) std::fclose(file_);
  }
  void write(const void* data, size_t size) {
    if (std::fwrite(data, 1, size, file_) != size) fail();
  }
  void write(const std::string& text) { write(text.data(), text.size()); }
  void close() {
    std::FILE* file = file_;
    file_ = nullptr;
    if (std::fclose(file) != 0) fail();
  }

 private:
  std::string path_;
  std::FILE* file_;
  [[noreturn]] void fail() const {
    throw EstimateError("cannot write " + path_ + ": " + std::strerror(errno));
  }
};

void append_log10(std::string& to, double value) {
  char digits[32];
  const float logarithm = static_cast<float>(std::log10(value));
  const auto end = std::to_chars(digits, digits + sizeof digits, logarithm).ptr;
  to.append(digits, end);
}

}  // namespace

// All orders are sorted by their last word first, so the n-grams that end in a given one come in the
// same order as those: one walk through all files at once, depth first, meets every n-gram right
// after the shorter one that it is interpolated with.
struct Estimator::Interpolator {
  Estimator& e;
  const int N;
  std::vector<const std::byte*> current;  // next record of each order; [order]
  std::vector<const std::byte*> backoff;  // next record of each context length
  std::vector<TempFile> sections;         // of orders 2..N; [order - 2]
  std::vector<std::string> text;          // not yet written, of each order

  explicit Interpolator(Estimator& estimator)
      : e(estimator), N(e.options_.order), current(N + 1), backoff(N + 1), text(N + 1) {
    for (int n = 2; n <= N; ++n) {
      sections.emplace_back(e.options_.temp_folder);
      current[n] = e.by_suffix_[n - 1]->next();
      backoff[n - 1] = e.backoffs_[n - 2]->next();
    }
  }

  void visit(int n, const uint32_t* reversed, double probability) {
    append_line(n, reversed, probability);
    if (n == N) return;
    RecordSorter& longer = *e.by_suffix_[n];
    uint32_t words[64];
    while (current[n + 1] != nullptr) {
      std::memcpy(words, RecordSorter::words(current[n + 1]), (n + 1) * sizeof *words);
      if (std::memcmp(words, reversed, n * sizeof *words) != 0) return;
      float values[2];  // discounted probability, gamma
      std::memcpy(values, longer.payload(current[n + 1]), sizeof values);
      current[n + 1] = longer.next();
      e.step();
      visit(n + 1, words, double(values[0]) + double(values[1]) * probability);
    }
  }

  // The context's gamma, 1 where nothing follows it. Asked for in the order of the file.
  double gamma_of(int n, const uint32_t* reversed) {
    RecordSorter& contexts = *e.backoffs_[n - 1];
    for (; backoff[n] != nullptr; backoff[n] = contexts.next()) {
      const uint32_t* words = RecordSorter::words(backoff[n]);
      int i = 0;
      while (i < n && words[i] == reversed[i]) ++i;
      if (i == n) {
        float gamma;
        std::memcpy(&gamma, contexts.payload(backoff[n]), sizeof gamma);
        return gamma;
      }
      if (words[i] > reversed[i]) break;
    }
    return 1.0;
  }

  void append_line(int n, const uint32_t* reversed, double probability) {
    std::string& line = text[n];
    if (n == 1 && reversed[0] == kBos)
      line += '0';  // never predicted
    else
      append_log10(line, probability);
    for (int i = n - 1; i >= 0; --i) {
      line += i == n - 1 ? '\t' : ' ';
      line += e.words_[reversed[i]];
    }
    if (n < N) {
      line += '\t';
      append_log10(line, gamma_of(n, reversed));
    }
    line += '\n';
    if (n >= 2 && line.size() >= size_t{1} << 18) {
      sections[n - 2].write(line.data(), line.size());
      line.clear();
    }
  }
};

void Estimator::write_arpa(const std::string& path) {
  const int N = options_.order;
  uint64_t total = 0;
  for (int n = 2; n <= N; ++n) total += by_suffix_[n - 1]->size();
  start_stage(total);

  TextFile file(path);
  std::string header = "\\data\\\n";
  for (int n = 1; n <= N; ++n)
    header += "ngram " + std::to_string(n) + "=" + std::to_string(statistics_[n - 1].kept) + "\n";
  file.write(header + "\n\\1-grams:\n");

  Interpolator interpolator(*this);
  for (uint32_t w = 0; w < words_.size(); ++w) {
    if (w != kBos && (unigram_counts_[w] >> 63)) continue;  // pruned
    interpolator.visit(1, &w, unigram_probability_[w]);
    std::string& unigrams = interpolator.text[1];
    if (unigrams.size() >= size_t{1} << 18) {
      file.write(unigrams);
      unigrams.clear();
    }
  }
  file.write(interpolator.text[1]);
  std::vector<char> block(size_t{1} << 20);
  for (int n = 2; n <= N; ++n) {
    file.write("\n\\" + std::to_string(n) + "-grams:\n");
    TempFile& section = interpolator.sections[n - 2];
    section.rewind();
    while (const size_t got = section.read(block.data(), block.size())) file.write(block.data(), got);
    file.write(interpolator.text[n]);
  }
  file.write("\n\\end\\\n");
  file.close();
}

}  // namespace ctcspeech::ngram
