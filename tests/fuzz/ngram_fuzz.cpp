// Damaged ARPA files and binaries of n-gram models: each must be read, or be an Error. Built with
// sanitizers by tests/test_fuzz.py:
//
//   g++ -std=c++17 -g -O1 -fsanitize=address,undefined -Icsrc tests/fuzz/ngram_fuzz.cpp csrc/ngram/*.cpp
//   ./a.out SECONDS [SEED [KENLM_BINARY...]]
#include <sanitizer/asan_interface.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ngram/arpa.h"
#include "ngram/hash.h"
#include "ngram/image.h"
#include "ngram/table.h"

using namespace ctcspeech::ngram;
using Random = std::mt19937_64;
using Bytes = std::string;

// A model of all n-grams over a few words, some left out.
static Bytes make_arpa(Random& random, int order) {
  const std::vector<std::string> words = {"<unk>", "<s>", "</s>", "a", "b", "c\xC3\xA9"};
  std::vector<std::vector<std::string>> levels = {words};
  for (int n = 2; n <= order; ++n) {
    levels.emplace_back();
    for (const std::string& context : levels[n - 2])
      for (const std::string& word : words)
        if (random() % 3 == 0) levels.back().push_back(context + " " + word);
  }
  Bytes text = "\\data\\\n";
  for (int n = 1; n <= order; ++n)
    text += "ngram " + std::to_string(n) + "=" + std::to_string(levels[n - 1].size()) + "\n";
  for (int n = 1; n <= order; ++n) {
    text += "\n\\" + std::to_string(n) + "-grams:\n";
    for (const std::string& ngram : levels[n - 1]) {
      text += "-" + std::to_string(random() % 400 / 100.0) + "\t" + ngram;
      if (n < order && random() % 2) text += "\t-" + std::to_string(random() % 100 / 100.0);
      text += "\n";
    }
  }
  return text + "\n\\end\\\n";
}

static std::unique_ptr<Table> read(const Bytes& text, Random& random) {
  size_t at = 0;
  LineReader lines([&](char* buffer, size_t size) {
    const size_t n = std::min({size, text.size() - at, size_t{1} + random() % 500});
    std::memcpy(buffer, text.data() + at, n);
    at += n;
    return n;
  });
  return read_arpa(lines, "fuzz", -100.0f);
}

static void mutate(Bytes& data, Random& random, size_t begin, size_t end) {
  static const char* const kPieces[] = {"\n", "\t", " ",   "-1e999", "\\end\\", "\\2-grams:",
                                        "-",  "0",  "inf", "\r",     "ngram 9=9", "<unk>"};
  const int count = 1 << random() % 6;
  for (int i = 0; i < count && begin < end && !data.empty(); ++i) {
    const size_t at = std::min(begin + random() % (end - begin), data.size() - 1);
    switch (random() % 6) {
      case 0: data[at] = static_cast<char>(random()); break;
      case 1: data[at] = static_cast<char>(data[at] ^ (1 << random() % 8)); break;
      case 2: data[at] = random() % 2 ? '\xFF' : '\0'; break;
      case 3: {  // a whole field
        const uint64_t values[] = {0, 1, ~0ull, 1ull << 40, data.size(), random()};
        const uint64_t value = values[random() % 6];
        const size_t place = at / 8 * 8;
        if (place + 8 <= data.size()) std::memcpy(&data[place], &value, random() % 2 ? 8 : 4);
        break;
      }
      case 4: data.replace(at, random() % 2, kPieces[random() % 12]); break;
      default:
        if (random() % 8 == 0) data.resize(at);
        else if (random() % 8 == 0) data.erase(at, random() % 60);
    }
  }
}

static void query(const Model& model, Random& random) {
  State state = random() % 2 ? model.begin_state() : model.null_state(), next;
  double sum = 0;
  for (int i = 0; i < 60; ++i) {
    const WordIndex word = random() % 20 == 0 ? static_cast<WordIndex>(random())
                                              : static_cast<WordIndex>(random() % 7);
    sum += model.score(state, word, next);
    if (next.length > kMaxOrder - 1) std::abort();
    state = next;
  }
  for (const char* word : {"a", "b", "", "zzz", "</s>"}) sum += model.index(word);
  for (WordIndex i = 0; i < 10; ++i) sum += static_cast<double>(model.word(i).size());
  if (sum == 12345.678) std::puts("");  // the work is not idle
}

static void sign_header(Bytes& data) {
  if (data.size() < sizeof(Header) + 8) return;
  Header header;
  std::memcpy(&header, data.data(), sizeof header);
  const uint64_t head = sizeof(Header) + uint64_t{header.section_count} * sizeof(SectionEntry);
  if (head + 8 > data.size()) return;
  header.file_size = data.size();
  std::memcpy(&data[0], &header, sizeof header);
  const uint64_t sum = checksum(reinterpret_cast<unsigned char*>(&data[0]), head);
  std::memcpy(&data[head], &sum, 8);
}

static void use_binary(const Bytes& data, const char* path, Random& random) {
  std::FILE* file = std::fopen(path, "wb");
  std::fwrite(data.data(), 1, data.size(), file);
  std::fclose(file);
  const std::unique_ptr<Model> model = Model::load(path);
  // The rest of the mapping's last page can be read, but must not be.
  const unsigned char* end = model->image().data() + model->image().size();
  const size_t rest = (4096 - model->image().size() % 4096) % 4096;
  ASAN_POISON_MEMORY_REGION(end, rest);
  try {
    query(*model, random);
    if (model->kind() == Kind::kTrie)
      write_arpa(*trie_table(model->image()), [](std::string_view) {});
    model->image().verify();
  } catch (const Error&) {
  }
  ASAN_UNPOISON_MEMORY_REGION(end, rest);
}

static Bytes read_file(const char* path) {
  Bytes data;
  if (std::FILE* file = std::fopen(path, "rb")) {
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) data.append(buffer, n);
    std::fclose(file);
  }
  return data;
}

static void use_kenlm(Bytes data, const char* path, Random& random) {
  mutate(data, random, 56, random() % 2 ? std::min<size_t>(512, data.size()) : data.size());
  std::FILE* file = std::fopen(path, "wb");
  std::fwrite(data.data(), 1, data.size(), file);
  std::fclose(file);
  const std::unique_ptr<Model> model = Model::load(path);
  model->verify();
  query(*model, random);
}

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  char path[] = "/tmp/ngram_fuzz_XXXXXX";
  if (mkstemp(path) < 0) return 1;
  std::vector<Bytes> kenlm;
  for (int k = 3; k < argc; ++k) kenlm.push_back(read_file(argv[k]));
  const auto start = std::chrono::steady_clock::now();
  int well = 0, i = 0;
  for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds;
       ++i) {
    Random random(seed * 1000003 + static_cast<uint64_t>(i));
    const int order = 1 + static_cast<int>(random() % 4);
    Bytes text = make_arpa(random, order);
    try {
      if (!kenlm.empty() && i % 3 == 0) {
        use_kenlm(kenlm[random() % kenlm.size()], path, random);
      } else if (i % 2 == 0) {
        mutate(text, random, 0, text.size());
        const std::unique_ptr<Table> table = read(text, random);
        query(*Model::from_image(build_probing(*table), "probing"), random);
        query(*Model::from_image(build_trie(*table, 3, 3), "trie"), random);
        mix(*table, *table, 0.5);
      } else {
        const std::unique_ptr<Table> table = read(text, random);
        const int bits = random() % 2 ? 0 : 4;
        const std::unique_ptr<Image> image =
            random() % 2 ? build_probing(*table) : build_trie(*table, bits, bits);
        Bytes data(reinterpret_cast<const char*>(image->data()), image->size());
        const size_t head = sizeof(Header) + 12 * sizeof(SectionEntry);
        if (random() % 2) mutate(data, random, 8, std::min(head, data.size()));
        else mutate(data, random, head, data.size());
        sign_header(data);
        use_binary(data, path, random);
      }
      ++well;
    } catch (const Error&) {
    } catch (const std::bad_alloc&) {
    }
  }
  std::remove(path);
  std::printf("%d cases, %d of them read\n", i, well);
}
