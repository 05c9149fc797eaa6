#include "ngram/ngram.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "ngram/arpa.h"
#include "ngram/kenlm.h"
#include "ngram/probing.h"
#include "ngram/trie.h"

namespace ctcspeech::ngram {

namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

// Why a file that is neither ARPA nor ours is refused, if its first bytes tell.
void refuse_foreign(const std::string& path, std::string_view head) {
  if (head.substr(0, 2) == "\x1f\x8b")
    throw Error(path + ": compressed; read it with ctcspeech.LanguageModel.load, or gunzip it");
  if (head.substr(0, 5) == "iARPA")
    throw Error(path + ": a binary of IRSTLM; write ARPA with `compile-lm --text=yes`");
}

}  // namespace

Model::Model() = default;
Model::~Model() = default;

std::unique_ptr<Model> Model::load(const std::string& path, float unknown) {
  File file(std::fopen(path.c_str(), "rb"));
  if (!file) throw Error(path + ": " + std::strerror(errno));
  char head[64] = {};
  const size_t got = std::fread(head, 1, sizeof head, file.get());
  if (got >= sizeof kMagic && std::memcmp(head, kMagic, sizeof kMagic) == 0)
    return from_image(Image::map(path), path);
  if (is_kenlm({head, got})) return load_kenlm(path);
  refuse_foreign(path, {head, got});
  std::rewind(file.get());
  LineReader lines([&](char* buffer, size_t size) {
    const size_t n = std::fread(buffer, 1, size, file.get());
    if (n == 0 && std::ferror(file.get())) throw Error(path + ": " + std::strerror(errno));
    return n;
  });
  return from_image(build_probing(*read_arpa(lines, path, unknown)), path);
}

std::unique_ptr<Model> Model::load_kenlm(const std::string& path) {
  KenlmModel read = read_kenlm(path);
  if (read.table)
    read.image = build_trie(*read.table, read.probability_bits, read.backoff_bits);
  return from_image(std::move(read.image), path);
}

std::unique_ptr<Model> Model::from_image(std::unique_ptr<Image> image, const std::string& name) {
  std::unique_ptr<Model> model(new Model);
  const Header& header = image->header();
  model->order_ = static_cast<int>(header.order);
  model->kind_ = static_cast<Kind>(header.kind);
  model->vocab_size_ = header.vocabulary_size;
  model->bos_ = header.bos;
  model->eos_ = header.eos;
  try {
    model->vocabulary_ = std::make_unique<VocabularyView>(*image);
    if (model->kind_ == Kind::kProbing)
      model->probing_ = std::make_unique<ProbingView>(*image);
    else
      model->trie_ = std::make_unique<TrieView>(*image);
  } catch (const Error& error) {
    throw Error(name + ": " + error.what());
  }
  model->image_ = std::move(image);
  State& begin = model->begin_state_;
  if (model->order_ > 1) {
    begin.length = 1;
    begin.words[0] = model->bos_;
    begin.backoff[0] = model->probing_ ? model->probing_->unigrams[model->bos_].backoff
                                       : model->trie_->unigrams[model->bos_].backoff;
  }
  return model;
}

void Model::verify() const {
  image_->verify();
  try {
    probing_ ? probing_->check_values() : trie_->check_values();
  } catch (const Error& error) {
    image_->fail(error.what());
  }
}

size_t Model::ngram_count(int order) const { return image_->header().counts[order - 1]; }

WordIndex Model::index(std::string_view word) const { return vocabulary_->index(word); }

std::string_view Model::word(WordIndex index) const { return vocabulary_->word(index); }

WordScore Model::full_score(const State& in, WordIndex word, State& out) const {
  return probing_ ? probing_->full_score(in, word, out) : trie_->full_score(in, word, out);
}

}  // namespace ctcspeech::ngram
