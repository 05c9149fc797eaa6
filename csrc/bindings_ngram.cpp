// ctcspeech._core.NgramModel and NgramState: see ctcspeech/language_model.py.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "ngram.h"
#include "ngram_arpa.h"
#include "ngram_image.h"

namespace nb = nanobind;

namespace ctcspeech {

using ngram::Model;
using ngram::State;
using ngram::WordIndex;

namespace {

// ngram::Error becomes ctcspeech.errors.LanguageModelError.
void translate_error(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const ngram::Error& error) {
    nb::object type = nb::module_::import_("ctcspeech.errors").attr("LanguageModelError");
    PyErr_SetString(type.ptr(), error.what());
  }
}

// Reads an ARPA file from an object with read(size) -> bytes.
std::unique_ptr<Model> read_arpa(nb::object file, const std::string& name, float unknown) {
  nb::object read = file.attr("read");
  std::unique_ptr<ngram::Table> table;
  {
    nb::gil_scoped_release release;
    ngram::LineReader lines([&](char* buffer, size_t size) {
      nb::gil_scoped_acquire acquire;
      nb::bytes chunk = nb::cast<nb::bytes>(read(size));
      if (chunk.size() > size) throw ngram::Error(name + ": read() gave more bytes than asked for");
      std::memcpy(buffer, chunk.c_str(), chunk.size());
      return chunk.size();
    });
    table = ngram::read_arpa(lines, name, unknown);
  }
  nb::gil_scoped_release release;
  return Model::from_image(ngram::build_probing(*table), name);
}

using Scored = std::tuple<float, int, bool>;

std::vector<Scored> full_scores(const Model& model, const std::vector<std::string_view>& words,
                                bool bos, bool eos) {
  std::vector<Scored> scores;
  scores.reserve(words.size() + 1);
  State state = bos ? model.begin_state() : model.null_state(), next;
  auto add = [&](WordIndex word) {
    const ngram::WordScore score = model.full_score(state, word, next);
    scores.emplace_back(score.log10, score.order, word == 0);
    state = next;
  };
  for (const std::string_view word : words) add(model.index(word));
  if (eos) add(model.eos());
  return scores;
}

double score_words(const Model& model, const std::vector<std::string_view>& words, bool bos,
                   bool eos) {
  double total = 0;
  for (const Scored& score : full_scores(model, words, bos, eos)) total += std::get<0>(score);
  return total;
}

}  // namespace

void bind_ngram(nb::module_& m) {
  nb::register_exception_translator(translate_error, nullptr);

  nb::class_<State>(m, "NgramState")
      .def("__eq__", [](const State& a, const State& b) { return a == b; }, nb::is_operator())
      .def("__hash__", [](const State& s) { return ngram::hash_value(s) >> 1; })
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
      .def_static("read_arpa", &read_arpa, nb::arg("file"), nb::arg("name"), nb::arg("unknown"))
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
      .def("word", [](const Model& model, WordIndex i) {
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
      .def("full_scores", &full_scores, nb::arg("words"), nb::arg("bos"), nb::arg("eos"))
      .def("score", &score_words, nb::arg("words"), nb::arg("bos"), nb::arg("eos"));
}

}  // namespace ctcspeech
