// Reading and writing ARPA files.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "ngram/table.h"

namespace ctcspeech::ngram {

// Lines out of a source of bytes. A line is valid until the next call.
class LineReader {
 public:
  // refill(buffer, size) puts up to `size` bytes into the buffer and returns how many; 0 is the end.
  using Refill = std::function<size_t(char*, size_t)>;
  explicit LineReader(Refill refill) : refill_(std::move(refill)) {}
  bool next(std::string_view& line);  // without its \n or \r\n; false at the end
  uint64_t number() const { return number_; }  // of the last line, from 1

 private:
  Refill refill_;
  std::string buffer_;
  size_t begin_ = 0, end_ = 0;
  bool finished_ = false;
  uint64_t number_ = 0;
};

// Reads a model; `unknown` is log10 P(<unk>) where <unk> is not listed. Throws Error with the line.
// The table is complete()d.
std::unique_ptr<Table> read_arpa(LineReader& lines, const std::string& name, float unknown);

// Gives the text of an ARPA file to `write`, piece by piece. Numbers are written so that reading gives
// the same floats.
void write_arpa(const Table& table, const std::function<void(std::string_view)>& write);

}  // namespace ctcspeech::ngram
