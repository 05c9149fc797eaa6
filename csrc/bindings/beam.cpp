// ctcspeech._core.BeamDecoder and BeamStream: see ctcspeech/decode/beam.py, which checks the arguments.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "beam/beam.h"
#include "bindings/bindings.h"

namespace nb = nanobind;

namespace ctcspeech {

using beam::Config;
using beam::Decoder;
using beam::Session;

namespace {

constexpr size_t kStreamMemory = size_t{512} << 10;  // bytes, for a stream's remembered scores

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// A language model that is a Python object with begin_state(), score(state, word) and, if the end of a
// sentence is to be scored, finish(state). Equal states are one state, if they can be hashed.
class PythonModel final : public beam::LanguageModel {
 public:
  PythonModel(nb::object model, const std::vector<std::string>& words)
      : model_(std::move(model)), words_(words) {}
  ~PythonModel() override {
    nb::gil_scoped_acquire acquire;
    numbers_.reset();
    states_.clear();
    model_.reset();
  }

  uint32_t begin() override {
    nb::gil_scoped_acquire acquire;
    return intern(model_.attr("begin_state")());
  }
  double score(uint32_t state, uint32_t word, uint32_t& next) override {
    nb::gil_scoped_acquire acquire;
    const std::string& text = beam::is_unknown(word) ? spelled_[word & 0x7FFFFFFFu] : words_[word];
    nb::object answer =
        model_.attr("score")(states_[state], nb::str(text.data(), text.size()));
    if (!nb::isinstance<nb::tuple>(answer) || nb::len(answer) != 2)
      throw nb::type_error("score(state, word) of the language model must return a tuple (natural "
                           "logarithm, new state)");
    const double ln = check(nb::cast<double>(answer[0]), "score(state, " + quoted(text) + ")");
    next = intern(answer[1]);
    return ln;
  }
  double finish(uint32_t state) override {
    nb::gil_scoped_acquire acquire;
    if (!nb::hasattr(model_, "finish")) return 0;
    return check(nb::cast<double>(model_.attr("finish")(states_[state])), "finish(state)");
  }
  bool wants_spelling() const override { return true; }
  uint32_t spelled(const std::string& word) override {
    const auto [found, added] =
        spelled_numbers_.try_emplace(word, static_cast<uint32_t>(spelled_.size()));
    if (added) spelled_.push_back(word);
    return found->second | 0x80000000u;
  }
  size_t num_states() const override { return states_.size(); }
  void keep(const std::vector<uint32_t>& states) override {
    nb::gil_scoped_acquire acquire;
    std::vector<nb::object> kept;
    for (const uint32_t state : states) kept.push_back(states_[state]);
    states_.clear();
    numbers_.clear();
    for (nb::object& state : kept) {
      // Not by intern(): states[i] becomes i even where two that cannot be hashed are equal.
      const size_t number = states_.size();
      if (PyObject_Hash(state.ptr()) != -1) {
        numbers_[state] = number;
      } else {
        PyErr_Clear();
      }
      states_.push_back(std::move(state));
    }
  }

 private:
  // -inf makes a word impossible; NaN and +inf are no logarithms of probabilities.
  static double check(double ln, const std::string& what) {
    if (std::isnan(ln) || ln == HUGE_VAL)
      throw nb::value_error((what + " of the language model returned " +
                             (std::isnan(ln) ? "NaN" : "+inf") +
                             "; it must be a natural logarithm or -inf")
                                .c_str());
    return ln;
  }
  static std::string quoted(const std::string& word) {
    return nb::cast<std::string>(nb::repr(nb::str(word.data(), word.size())));
  }
  uint32_t intern(nb::object state) {
    const uint32_t number = static_cast<uint32_t>(states_.size());
    if (PyObject_Hash(state.ptr()) != -1) {
      if (numbers_.contains(state)) return nb::cast<uint32_t>(numbers_[state]);
      numbers_[state] = number;
    } else {
      PyErr_Clear();
    }
    states_.push_back(std::move(state));
    return number;
  }

  nb::object model_;
  std::vector<std::string> words_, spelled_;
  std::unordered_map<std::string, uint32_t> spelled_numbers_;
  std::vector<nb::object> states_;
  nb::dict numbers_;
};

using PyToken = std::tuple<nb::bytes, bool, bool, bool>;

void set_tokens(Config& config, const std::vector<PyToken>& tokens) {
  config.tokens.clear();
  for (const auto& [text, begins_word, separates, skipped] : tokens)
    config.tokens.push_back(
        {std::string(text.c_str(), text.size()), begins_word, separates, skipped});
}

void set_custom_lm(Config& config, nb::object model) {
  config.custom_lm = [model](const std::vector<std::string>& words) {
    nb::gil_scoped_acquire acquire;
    return std::make_unique<PythonModel>(model, words);
  };
}

// The models are arguments, not members of the configuration, since the decoder keeps them alive.
void construct(Decoder* self, Config& config, const ngram::Model* ngram, const neural::Lstm* neural) {
  config.ngram = ngram;
  config.neural = neural;
  new (self) Decoder(config);
}

nb::object to_str(const char* text, size_t size) {
  return nb::steal(PyUnicode_DecodeUTF8(text, static_cast<Py_ssize_t>(size), "replace"));
}

// (text, tokens, words as (text, start, end, confidence) in frames, Q, ctc, lm)
nb::tuple to_python(const beam::Hypothesis& hypothesis, bool times) {
  nb::list words, tokens;
  for (const int32_t token : hypothesis.tokens) tokens.append(token);
  if (times) {
    for (const beam::WordResult& word : hypothesis.words) {
      words.append(nb::make_tuple(to_str(hypothesis.text.data() + word.begin, word.end - word.begin),
                                  word.start_frame, word.end_frame, word.confidence));
    }
  }
  return nb::make_tuple(to_str(hypothesis.text.data(), hypothesis.text.size()), tokens, words,
                        hypothesis.score, hypothesis.ctc_score, hypothesis.lm_score);
}

nb::list to_python(const std::vector<beam::Hypothesis>& hypotheses, bool times) {
  nb::list out;
  for (const beam::Hypothesis& hypothesis : hypotheses) out.append(to_python(hypothesis, times));
  return out;
}

// A list with, for each utterance, its hypotheses, or (frame, what is wrong).
nb::list decode(const Decoder& decoder, const std::vector<Matrix>& emissions,
                const std::vector<std::vector<std::string>>& contexts, int threads) {
  std::vector<beam::Utterance> utterances(emissions.size());
  for (size_t i = 0; i < emissions.size(); ++i) {
    utterances[i].emissions = emissions[i].data();
    utterances[i].frames = static_cast<int64_t>(emissions[i].shape(0));
    if (!contexts.empty()) utterances[i].context = contexts[i];
  }
  {
    nb::gil_scoped_release release;
    beam::decode_batch(decoder, utterances, threads);
  }
  nb::list out;
  for (const beam::Utterance& utterance : utterances) {
    if (utterance.bad_frame >= 0) {
      out.append(nb::make_tuple(utterance.bad_frame, utterance.error));
    } else {
      out.append(to_python(utterance.hypotheses, decoder.options().word_times));
    }
  }
  return out;
}

// ln P_ctc, or (frame, what is wrong)
nb::object ctc_score(const Decoder& decoder, const Matrix& emissions,
                     const std::vector<uint32_t>& tokens) {
  try {
    return nb::cast(decoder.ctc_score(emissions.data(), static_cast<int64_t>(emissions.shape(0)),
                                      tokens));
  } catch (const beam::BadFrame& bad) {
    return nb::make_tuple(bad.frame, std::string(bad.what()));
  }
}

// (ln of the best alignment, its class in each frame), or (frame, what is wrong)
nb::tuple best_path(const Decoder& decoder, const Matrix& emissions,
                    const std::vector<uint32_t>& tokens) {
  try {
    std::vector<uint32_t> path;
    const double score = decoder.best_path(
        emissions.data(), static_cast<int64_t>(emissions.shape(0)), tokens, path);
    return nb::make_tuple(score, path);
  } catch (const beam::BadFrame& bad) {
    return nb::make_tuple(bad.frame, std::string(bad.what()));
  }
}

// An utterance that comes in pieces.
class Stream {
 public:
  Stream(const Decoder& decoder, const std::vector<std::string>& context)
      : decoder_(decoder), session_(decoder, kStreamMemory) {
    session_.begin(context);
  }
  // None, or (frame, what is wrong)
  nb::object accept(const Matrix& emissions) {
    try {
      nb::gil_scoped_release release;
      session_.accept(emissions.data(), static_cast<int64_t>(emissions.shape(0)),
                      decoder_.num_tokens());
    } catch (const beam::BadFrame& bad) {
      return nb::make_tuple(bad.frame, std::string(bad.what()));
    }
    return nb::none();
  }
  nb::tuple partial() {
    beam::Partial partial;
    {
      nb::gil_scoped_release release;
      partial = session_.partial();
    }
    return nb::make_tuple(to_python(partial.best, decoder_.options().word_times),
                          to_str(partial.best.text.data(), partial.final_bytes));
  }
  nb::list finish() {
    std::vector<beam::Hypothesis> hypotheses;
    {
      nb::gil_scoped_release release;
      hypotheses = session_.finish();
    }
    return to_python(hypotheses, decoder_.options().word_times);
  }
  int64_t num_frames() const { return session_.num_frames(); }
  size_t bytes() const { return session_.bytes(); }

 private:
  const Decoder& decoder_;
  Session session_;
};

}  // namespace

void bind_beam(nb::module_& m) {
  nb::class_<beam::Options> options(m, "BeamOptions");
  options.def(nb::init<>())
      .def_rw("beam_size", &beam::Options::beam_size)
      .def_rw("beam_threshold", &beam::Options::beam_threshold)
      .def_rw("token_min_logp", &beam::Options::token_min_logp)
      .def_rw("strict_minimum", &beam::Options::strict_minimum)
      .def_rw("open_vocabulary", &beam::Options::open_vocabulary)
      .def_rw("unknown_at_once", &beam::Options::unknown_at_once)
      .def_rw("recombine", &beam::Options::recombine)
      .def_rw("end_of_sentence", &beam::Options::end_of_sentence)
      .def_rw("n_best", &beam::Options::n_best)
      .def_rw("word_times", &beam::Options::word_times);
  const auto weight = [&options](const char* name, double beam::Weights::* field) {
    options.def_prop_rw(
        name, [field](const beam::Options& o) { return o.weights.*field; },
        [field](beam::Options& o, double value) { o.weights.*field = value; });
  };
  weight("lm_weight", &beam::Weights::lm_weight);
  weight("word_score", &beam::Weights::word_score);
  weight("unk_score", &beam::Weights::unk_score);
  weight("neural_weight", &beam::Weights::neural_weight);
  nb::class_<Config>(m, "BeamConfig")
      .def(nb::init<>())
      .def_prop_rw("tokens", nullptr, &set_tokens)
      .def_rw("blank", &Config::blank)
      .def_rw("options", &Config::options)
      .def_prop_rw("custom_lm", nullptr, &set_custom_lm)
      .def_rw("lm_over_tokens", &Config::lm_over_tokens)
      .def_rw("token_words", &Config::token_words)
      .def_rw("lexicon_from_lm", &Config::lexicon_from_lm)
      .def_rw("lexicon", &Config::lexicon)
      .def_rw("hot_words", &Config::hot_words)
      .def_rw("neural_labels", &Config::neural_labels);
  nb::class_<Decoder>(m, "BeamDecoder")
      .def("__init__", &construct, nb::arg("config"), nb::arg("ngram").none(),
           nb::arg("neural").none(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>())
      .def_prop_ro("lexicon_size", &Decoder::lexicon_size)
      .def_prop_ro("words_skipped", &Decoder::words_skipped)
      .def("ctc_score", &ctc_score, nb::arg("emissions"), nb::arg("tokens"))
      .def("best_path", &best_path, nb::arg("emissions"), nb::arg("tokens"))
      .def("decode", &decode, nb::arg("emissions"), nb::arg("contexts"), nb::arg("threads"));
  nb::class_<Stream>(m, "BeamStream")
      .def(nb::init<const Decoder&, const std::vector<std::string>&>(), nb::arg("decoder"),
           nb::arg("context"), nb::keep_alive<1, 2>())
      .def("accept", &Stream::accept, nb::arg("emissions"))
      .def("partial", &Stream::partial)
      .def("finish", &Stream::finish)
      .def_prop_ro("num_frames", &Stream::num_frames)
      .def_prop_ro("bytes", &Stream::bytes);
}

}  // namespace ctcspeech
