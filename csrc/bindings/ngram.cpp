// ctcspeech._core.NgramModel and NgramState: see ctcspeech/lm/model.py.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "ngram/ngram.h"
#include "ngram/arpa.h"
#include "ngram/image.h"
#include "ngram/table.h"

namespace nb = nanobind;

namespace ctcspeech {

using ngram::Model;
using ngram::State;
using ngram::Table;
using ngram::WordIndex;

namespace {

// ngram::Error becomes ctcspeech.errors.LanguageModelError.
void translate_error(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const ngram::Error& error) {
    nb::object type = nb::module_::import_("ctcspeech.errors").attr("LanguageModelError");
    // What the message quotes from a file need not be UTF-8.
    nb::object text = nb::steal(
        PyUnicode_DecodeUTF8(error.what(), static_cast<Py_ssize_t>(std::strlen(error.what())),
                             "backslashreplace"));
    PyErr_SetObject(type.ptr(), text.ptr());
  }
}

std::string_view view(const nb::bytes& text) { return {text.c_str(), text.size()}; }

// Reads an ARPA file from an object with read(size) -> bytes.
std::unique_ptr<Table> read_arpa(nb::object file, const std::string& name, float unknown) {
  nb::object read = file.attr("read");
  nb::gil_scoped_release release;
  ngram::LineReader lines([&](char* buffer, size_t size) {
    nb::gil_scoped_acquire acquire;
    nb::bytes chunk = nb::cast<nb::bytes>(read(size));
    if (chunk.size() > size) throw ngram::Error(name + ": read() gave more bytes than asked for");
    std::memcpy(buffer, chunk.c_str(), chunk.size());
    return chunk.size();
  });
  return ngram::read_arpa(lines, name, unknown);
}

std::unique_ptr<Model> build(const Table& table, const std::string& kind, int probability_bits,
                             int backoff_bits) {
  std::unique_ptr<ngram::Image> image =
      kind == "trie" ? ngram::build_trie(table, probability_bits, backoff_bits)
                     : ngram::build_probing(table);
  return Model::from_image(std::move(image), "the model in memory");
}

std::unique_ptr<Table> table_of(const Model& model) {
  if (model.kind() != ngram::Kind::kTrie)
    throw ngram::Error("the model keeps only hashes of its n-grams and cannot list them; use its "
                       "ARPA file or its trie binary");
  return ngram::trie_table(model.image());
}

// Calls write(bytes) for pieces of an image.
void write_image(const Model& model, nb::object write) {
  constexpr uint64_t kPiece = 1 << 24;
  const ngram::Image& image = model.image();
  for (uint64_t at = 0; at < image.size(); at += kPiece)
    write(nb::bytes(image.data() + at, std::min(kPiece, image.size() - at)));
}

using Scored = std::tuple<float, int, bool>;

// Calls add(score, word) for each word that `next_word` gives, and for </s>.
template <class NextWord, class Add>
void score_sentence(const Model& model, NextWord next_word, bool bos, bool eos, Add add) {
  State states[2] = {bos ? model.begin_state() : model.null_state(), {}};
  int current = 0;
  auto step = [&](WordIndex word) {
    add(model.full_score(states[current], word, states[1 - current]), word);
    current = 1 - current;
  };
  for (std::string_view word; next_word(word);) step(model.index(word));
  if (eos) step(model.eos());
}

// Cuts a text at ASCII white space.
auto words_of(std::string_view text) {
  return [text](std::string_view& word) mutable {
    constexpr std::string_view kSpace = " \t\n\r\v\f";
    const size_t begin = text.find_first_not_of(kSpace);
    if (begin == text.npos) return false;
    word = text.substr(begin, text.find_first_of(kSpace, begin) - begin);
    text.remove_prefix(begin + word.size());
    return true;
  };
}

auto words_of(const nb::list& words, nb::bytes& keep) {
  return [&words, &keep, i = size_t{0}](std::string_view& word) mutable {
    if (i == words.size()) return false;
    keep = nb::cast<nb::bytes>(words[i++]);
    word = view(keep);
    return true;
  };
}

template <class NextWord>
std::vector<Scored> collect(const Model& model, NextWord next_word, bool bos, bool eos) {
  std::vector<Scored> scores;
  score_sentence(model, next_word, bos, eos, [&](ngram::WordScore score, WordIndex word) {
    scores.emplace_back(score.log10, score.order, word == 0);
  });
  return scores;
}

template <class NextWord>
double sum(const Model& model, NextWord next_word, bool bos, bool eos) {
  double total = 0;
  score_sentence(model, next_word, bos, eos,
                 [&](ngram::WordScore score, WordIndex) { total += score.log10; });
  return total;
}

// Sums over many lines: (tokens, unknown words, log10 P of all, log10 P of the unknown words, tokens
// by the length of the n-gram used, from 1).
std::tuple<uint64_t, uint64_t, double, double, std::vector<uint64_t>> summarize(
    const Model& model, const std::vector<nb::bytes>& lines, bool bos, bool eos) {
  std::vector<std::string_view> views;
  for (const nb::bytes& line : lines) views.push_back(view(line));
  nb::gil_scoped_release release;
  uint64_t tokens = 0, unknown = 0;
  double total = 0, of_unknown = 0;
  std::vector<uint64_t> by_order(model.order(), 0);
  for (const std::string_view line : views)
    score_sentence(model, words_of(line), bos, eos, [&](ngram::WordScore score, WordIndex word) {
      ++tokens;
      ++by_order[score.order - 1];
      total += score.log10;
      if (word == 0) {
        ++unknown;
        of_unknown += score.log10;
      }
    });
  return {tokens, unknown, total, of_unknown, by_order};
}

nb::dict info(const Model& model) {
  const ngram::Header& header = model.image().header();
  nb::dict result;
  result["kind"] = model.kind() == ngram::Kind::kTrie ? "trie" : "probing";
  result["bytes"] = model.image().size();
  result["mapped"] = model.image().mapped();
  result["has_unknown"] = (header.flags & ngram::kHasUnknown) != 0;
  result["probability_bits"] = header.probability_bits;
  result["backoff_bits"] = header.backoff_bits;
  result["version"] = header.version;
  return result;
}

using WordsAndBackoffs = std::tuple<std::vector<WordIndex>, std::vector<float>>;

WordsAndBackoffs words_and_backoffs(const State& s) {
  return {{s.words, s.words + s.length}, {s.backoff, s.backoff + s.length}};
}

void restore_state(State& state, const WordsAndBackoffs& stored) {
  const auto& [words, backoffs] = stored;
  if (words.size() != backoffs.size() || words.size() >= ngram::kMaxOrder)
    throw ngram::Error("a state of " + std::to_string(words.size()) + " words and " +
                       std::to_string(backoffs.size()) + " back-off weights");
  for (const float backoff : backoffs)
    if (!std::isfinite(backoff)) throw ngram::Error("a state whose back-off weight is not finite");
  new (&state) State;
  state.length = static_cast<uint8_t>(words.size());
  std::copy(words.begin(), words.end(), state.words);
  std::copy(backoffs.begin(), backoffs.end(), state.backoff);
}

std::unique_ptr<Model> from_bytes(const nb::bytes& bytes, const std::string& name) {
  const char* data = bytes.c_str();
  const size_t size = bytes.size();
  nb::gil_scoped_release release;
  auto model = Model::from_image(ngram::Image::copy(data, size, name), name);
  model->verify();
  return model;
}

void bind_table(nb::module_& m) {
  nb::class_<Table>(m, "NgramTable")
      .def_static("read_arpa", &read_arpa, nb::arg("file"), nb::arg("name"), nb::arg("unknown"))
      .def_static("from_model", &table_of, nb::arg("model"),
                  nb::call_guard<nb::gil_scoped_release>())
      .def_static("mix", &ngram::mix, nb::arg("first"), nb::arg("second"), nb::arg("first_weight"),
                  nb::call_guard<nb::gil_scoped_release>())
      .def("build", &build, nb::arg("kind"), nb::arg("probability_bits"), nb::arg("backoff_bits"),
           nb::call_guard<nb::gil_scoped_release>())
      .def("write_arpa", [](const Table& table, nb::object write) {
        ngram::write_arpa(
            table, [&](std::string_view text) { write(nb::bytes(text.data(), text.size())); });
      });
}

}  // namespace

void bind_ngram(nb::module_& m) {
  nb::register_exception_translator(translate_error, nullptr);

  bind_table(m);

  nb::class_<State>(m, "NgramState")
      .def("__eq__", [](const State& a, const State& b) { return a == b; }, nb::is_operator())
      .def("__hash__", [](const State& s) { return ngram::hash_value(s) >> 1; })
      .def("__getstate__", &words_and_backoffs)
      .def("__setstate__", &restore_state)
      .def_prop_ro("words",
                   [](const State& s) {
                     return std::vector<WordIndex>(s.words, s.words + s.length);
                   })
      .def_prop_ro("backoff", [](const State& s) {
        return std::vector<float>(s.backoff, s.backoff + s.length);
      });

  nb::class_<Model>(m, "NgramModel")
      .def_static("load", &Model::load, nb::arg("path"), nb::arg("unknown"),
                  nb::call_guard<nb::gil_scoped_release>())
      .def_static("from_bytes", &from_bytes, nb::arg("bytes"), nb::arg("name"))
      .def_prop_ro("fingerprint", [](const Model& model) { return model.image().fingerprint(); })
      .def_prop_ro("order", &Model::order)
      .def_prop_ro("vocab_size", &Model::vocab_size)
      .def_prop_ro("counts",
                   [](const Model& model) {
                     std::vector<size_t> counts;
                     for (int n = 1; n <= model.order(); ++n)
                       counts.push_back(model.ngram_count(n));
                     return counts;
                   })
      .def_prop_ro("bos", &Model::bos)
      .def_prop_ro("eos", &Model::eos)
      .def("index", &Model::index, nb::arg("word"))
      .def("index",
           [](const Model& model, const nb::bytes& word) { return model.index(view(word)); })
      .def("word",
           [](const Model& model, WordIndex i) {
             const std::string_view word = model.word(i);
             return nb::bytes(word.data(), word.size());
           })
      .def("begin_state", &Model::begin_state)
      .def("null_state", &Model::null_state)
      .def("score_word",
           [](const Model& model, const State& state, WordIndex word) {
             State next;
             const ngram::WordScore score = model.full_score(state, word, next);
             return std::make_tuple(score.log10, next);
           })
      .def("full_score_word",
           [](const Model& model, const State& state, WordIndex word) {
             State next;
             const ngram::WordScore score = model.full_score(state, word, next);
             return std::make_tuple(score.log10, score.order, next);
           })
      .def("full_scores",
           [](const Model& model, const nb::bytes& text, bool bos, bool eos) {
             return collect(model, words_of(view(text)), bos, eos);
           })
      .def("full_scores",
           [](const Model& model, const nb::list& words, bool bos, bool eos) {
             nb::bytes keep("", 0);
             return collect(model, words_of(words, keep), bos, eos);
           })
      .def("score",
           [](const Model& model, const nb::bytes& text, bool bos, bool eos) {
             return sum(model, words_of(view(text)), bos, eos);
           })
      .def("score",
           [](const Model& model, const nb::list& words, bool bos, bool eos) {
             nb::bytes keep("", 0);
             return sum(model, words_of(words, keep), bos, eos);
           })
      .def("summarize", &summarize, nb::arg("lines"), nb::arg("bos"), nb::arg("eos"))
      .def("info", &info)
      .def("verify", &Model::verify, nb::call_guard<nb::gil_scoped_release>())
      .def("write", &write_image, nb::arg("write"));
}

}  // namespace ctcspeech
