#include "ngram/estimate/sort.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#include <algorithm>

namespace ctcspeech::ngram {

namespace {
constexpr size_t kMostRuns = 128;            // open at once; more are merged into one first
constexpr size_t kRunBuffer = size_t{1} << 20;         // the most that a run's buffer takes
constexpr size_t kSmallestRunBuffer = size_t{1} << 16;
constexpr size_t kSpillPart = 16;                  // a run on disk is at least limit / 16
constexpr uint32_t kMostRecords = 0xFFFFFFF0u;  // in memory: Key::index has 32 bits

template <class T>
void free_memory(std::vector<T>& vector) {  // which assigning {} does not
  std::vector<T>().swap(vector);
}

}  // namespace

TempFile::TempFile(const std::string& folder) {
  std::string name = folder + "/ctcspeech-lm-XXXXXX";
  const int descriptor = mkstemp(name.data());
  if (descriptor < 0)
    throw EstimateError("cannot create a temporary file in " + folder + ": " +
                        std::strerror(errno) + "; name another folder with --temp-dir");
  unlink(name.c_str());
  file_ = fdopen(descriptor, "w+b");
  if (file_ == nullptr) {
    ::close(descriptor);
    throw EstimateError("cannot open a temporary file in " + folder);
  }
}

void TempFile::write(const void* data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, file_) != bytes)
    throw EstimateError(std::string("cannot write a temporary file: ") + std::strerror(errno) +
                        "; name a folder with more space with --temp-dir");
}

size_t TempFile::read(void* data, size_t bytes) {
  const size_t got = std::fread(data, 1, bytes, file_);
  if (got < bytes && std::ferror(file_))
    throw EstimateError(std::string("cannot read a temporary file: ") + std::strerror(errno));
  return got;
}

void TempFile::rewind() {
  if (std::fflush(file_) != 0)
    throw EstimateError(std::string("cannot write a temporary file: ") + std::strerror(errno) +
                        "; name a folder with more space with --temp-dir");
  std::rewind(file_);
}

void TempFile::close() {
  if (file_ != nullptr) std::fclose(file_);
  file_ = nullptr;
}

RecordSorter::RecordSorter(int num_words, size_t payload, const std::string& temp_folder,
                           MemoryBudget& budget, bool presorted)
    : num_words_(num_words),
      record_bytes_(num_words * sizeof(uint32_t) + payload),
      temp_folder_(temp_folder),
      budget_(budget),
      presorted_(presorted) {}

RecordSorter::~RecordSorter() { release(); }

void RecordSorter::charge() {
  // The keys come when the records are sorted; the memory for them is set aside from the start.
  size_t now = records_.capacity() + key_bytes(records_.capacity());
  for (const Run& run : runs_) now += run.buffer.capacity();
  budget_.used += now - charged_;
  charged_ = now;
}

void RecordSorter::release() {
  runs_.clear();
  free_memory(records_);
  free_memory(keys_);
  charge();
}

void RecordSorter::add(const uint32_t* words, const void* payload) {
  if (records_.size() + record_bytes_ > records_.capacity()) {
    const size_t held = records_.size() / record_bytes_;
    const size_t growth = records_.capacity() + key_bytes(records_.capacity());
    const bool full = budget_.used + growth > budget_.limit;
    if (held >= kMostRecords || (full && records_.size() >= budget_.limit / kSpillPart)) {
      spill();
    } else {
      records_.reserve(std::max(2 * records_.capacity(), size_t{1} << 16));
      charge();
    }
  }
  const size_t words_bytes = num_words_ * sizeof(uint32_t);
  const size_t end = records_.size();
  records_.resize(end + record_bytes_);
  std::memcpy(&records_[end], words, words_bytes);
  std::memcpy(&records_[end + words_bytes], payload, record_bytes_ - words_bytes);
  ++size_;
}

bool RecordSorter::less(const std::byte* a, const std::byte* b) const {
  const uint32_t* x = words(a);
  const uint32_t* y = words(b);
  for (size_t i = 0; i < num_words_; ++i)
    if (x[i] != y[i]) return x[i] < y[i];
  return false;
}

void RecordSorter::sort_memory() {
  if (presorted_) return;
  const size_t count = records_.size() / record_bytes_;
  keys_.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t* w = words(record(static_cast<uint32_t>(i)));
    const uint64_t second = num_words_ > 1 ? w[1] : 0;
    keys_[i] = {uint64_t{w[0]} << 32 | second, static_cast<uint32_t>(i)};
  }
  std::sort(keys_.begin(), keys_.end(), [this](const Key& a, const Key& b) {
    if (a.prefix != b.prefix) return a.prefix < b.prefix;
    const uint32_t* x = words(record(a.index));
    const uint32_t* y = words(record(b.index));
    for (size_t i = 2; i < num_words_; ++i)
      if (x[i] != y[i]) return x[i] < y[i];
    return a.index < b.index;
  });
}

void RecordSorter::spill() {
  sort_memory();
  Run run{TempFile(temp_folder_), {}, 0, 0};
  std::vector<std::byte> buffer;
  buffer.reserve(kRunBuffer);
  const size_t count = records_.size() / record_bytes_;
  for (size_t i = 0; i < count; ++i) {
    const std::byte* r = in_order(i);
    buffer.insert(buffer.end(), r, r + record_bytes_);
    if (buffer.size() + record_bytes_ > kRunBuffer) {
      run.file.write(buffer.data(), buffer.size());
      buffer.clear();
    }
  }
  run.file.write(buffer.data(), buffer.size());
  run.file.rewind();
  bytes_on_disk_ += records_.size();
  runs_.push_back(std::move(run));
  records_.clear();
  free_memory(keys_);
  charge();
  if (runs_.size() >= kMostRuns) merge_runs();
}

// Merges all runs into one, so that their number stays bounded.
void RecordSorter::merge_runs() {
  start_merge();
  Run merged{TempFile(temp_folder_), {}, 0, 0};
  while (const std::byte* r = next()) merged.file.write(r, record_bytes_);
  merged.file.rewind();
  runs_.clear();
  runs_.push_back(std::move(merged));
  charge();
}

void RecordSorter::finish() {
  if (runs_.empty()) {
    sort_memory();
    position_ = 0;
    return;
  }
  if (!records_.empty()) spill();
  free_memory(records_);
  start_merge();
}

bool RecordSorter::refill(Run& run) {
  run.position = 0;
  run.filled = run.file.read(run.buffer.data(), run.buffer.size());
  return run.filled >= record_bytes_;
}

void RecordSorter::start_merge() {
  heap_.clear();
  const size_t share = budget_.limit / 16 / std::max<size_t>(runs_.size(), 1);
  const size_t buffer = std::clamp(share, kSmallestRunBuffer, kRunBuffer);
  for (size_t i = 0; i < runs_.size(); ++i) {
    runs_[i].buffer.resize(buffer / record_bytes_ * record_bytes_);
    if (refill(runs_[i])) heap_.push_back(i);
  }
  charge();
  const auto later = [this](size_t a, size_t b) { return less(head(b), head(a)); };
  std::make_heap(heap_.begin(), heap_.end(), later);
  advance_first_ = false;
}

const std::byte* RecordSorter::next() {
  if (runs_.empty())
    return position_ < records_.size() / record_bytes_ ? in_order(position_++) : nullptr;
  const auto later = [this](size_t a, size_t b) { return less(head(b), head(a)); };
  if (advance_first_) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    Run& run = runs_[heap_.back()];
    run.position += record_bytes_;
    if (run.position < run.filled || refill(run)) {
      std::push_heap(heap_.begin(), heap_.end(), later);
    } else {
      run.file.close();
      free_memory(run.buffer);
      heap_.pop_back();
    }
  }
  if (heap_.empty()) return nullptr;
  advance_first_ = true;
  return head(heap_.front());
}

}  // namespace ctcspeech::ngram
