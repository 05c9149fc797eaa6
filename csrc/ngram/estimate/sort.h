// Sorting more n-grams than fit in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace ctcspeech::ngram {

// What went wrong while a model was estimated; the message says what to do.
struct EstimateError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Memory that several sorters share. One that finds the sum above the limit writes what it holds to
// its disk.
struct MemoryBudget {
  size_t limit;
  size_t used = 0;
};

// A temporary file without a name: the system removes it however the process ends.
class TempFile {
 public:
  explicit TempFile(const std::string& folder);
  ~TempFile() { close(); }
  TempFile(TempFile&& other) noexcept : file_(other.file_) { other.file_ = nullptr; }
  TempFile& operator=(TempFile&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  void write(const void* data, size_t bytes);
  size_t read(void* data, size_t bytes);  // bytes read; fewer than asked for only at the end
  void rewind();
  void close();

 private:
  std::FILE* file_ = nullptr;
};

// Records of `num_words` words (uint32) and a payload of fixed size, given in any order, returned in
// lexicographic order of their words, equal ones next to each other. To sort by the last word first,
// hand the words over in reverse.
class RecordSorter {
 public:
  // `presorted`: the records are added in order, and only stored.
  RecordSorter(int num_words, size_t payload, const std::string& temp_folder, MemoryBudget& budget,
               bool presorted = false);
  ~RecordSorter();
  RecordSorter(const RecordSorter&) = delete;
  RecordSorter& operator=(const RecordSorter&) = delete;

  void add(const uint32_t* words, const void* payload);
  void finish();  // no more add; next() follows
  // The next record, valid until the following call; nullptr at the end.
  const std::byte* next();

  static const uint32_t* words(const std::byte* record) {
    return reinterpret_cast<const uint32_t*>(record);
  }
  const std::byte* payload(const std::byte* record) const {
    return record + num_words_ * sizeof(uint32_t);
  }
  uint64_t size() const { return size_; }
  uint64_t bytes_on_disk() const { return bytes_on_disk_; }

 private:
  struct Key {  // the first two words, and where the record stands
    uint64_t prefix;
    uint32_t index;
  };
  struct Run {
    TempFile file;
    std::vector<std::byte> buffer;
    size_t position = 0, filled = 0;
  };

  const size_t num_words_, record_bytes_;
  const std::string temp_folder_;
  MemoryBudget& budget_;
  const bool presorted_;
  uint64_t size_ = 0, bytes_on_disk_ = 0;
  std::vector<std::byte> records_;
  std::vector<Key> keys_;
  size_t position_ = 0;   // of the next record, when nothing is on disk
  std::vector<Run> runs_;
  std::vector<size_t> heap_;  // runs, the one with the smallest record first
  bool advance_first_ = false;
  size_t charged_ = 0;

  size_t key_bytes(size_t records) const {
    return presorted_ ? 0 : records / record_bytes_ * sizeof(Key);
  }
  const std::byte* record(size_t index) const { return &records_[index * record_bytes_]; }
  const std::byte* in_order(size_t place) const {
    return record(presorted_ ? place : keys_[place].index);
  }
  const std::byte* head(size_t run) const { return &runs_[run].buffer[runs_[run].position]; }
  bool less(const std::byte* a, const std::byte* b) const;
  bool refill(Run& run);
  void sort_memory();
  void spill();
  void start_merge();
  void merge_runs();
  void charge();
  void release();
};

}  // namespace ctcspeech::ngram
