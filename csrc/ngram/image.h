// A binary model in memory: its header, its sections, and their way from and to a file.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ngram/format.h"

namespace ctcspeech::ngram {

struct Section {
  const unsigned char* data = nullptr;
  uint64_t size = 0;
  uint64_t extra = 0;

  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data);
  }
  template <class T>
  uint64_t count() const {
    return size / sizeof(T);
  }
};

class Image {
 public:
  // Maps a file and checks its header and the bounds of its sections. Throws Error.
  static std::unique_ptr<Image> map(const std::string& path);
  // A copy of a file's bytes, checked in the same way. Throws Error.
  static std::unique_ptr<Image> copy(const void* bytes, uint64_t size, const std::string& name);
  ~Image();
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  const Header& header() const { return header_; }
  const unsigned char* data() const { return data_; }
  uint64_t size() const { return size_; }
  bool mapped() const { return mapped_; }
  // The checksum of the header and of the sections' checksums: equal for equal models.
  uint64_t fingerprint() const { return fingerprint_; }

  // The section, with its size checked to be `bytes` where that is not kAnySize. Throws Error.
  static constexpr uint64_t kAnySize = ~0ull;
  Section section(SectionId id, uint32_t order = 0, uint64_t bytes = kAnySize) const;
  // Reads everything and compares the checksums of the sections. Throws Error at the first wrong one.
  void verify() const;
  [[noreturn]] void fail(const std::string& what) const;  // Error with the file's name

 private:
  friend class ImageBuilder;
  Image() = default;
  void check_header(const std::string& name);

  std::string name_ = "the model in memory";
  const unsigned char* data_ = nullptr;
  uint64_t size_ = 0;
  bool mapped_ = false;
  uint64_t fingerprint_ = 0;
  Header header_{};
  std::vector<SectionEntry> entries_;
};

// Lays out an image: announce every section, then fill them in place, then finish.
class ImageBuilder {
 public:
  explicit ImageBuilder(const Header& header) : header_(header) {}
  void announce(SectionId id, uint32_t order, uint64_t size, uint64_t extra = 0);
  void allocate();  // all announced; sections are zero
  unsigned char* section(SectionId id, uint32_t order = 0);
  template <class T>
  T* section_as(SectionId id, uint32_t order = 0) {
    return reinterpret_cast<T*>(section(id, order));
  }
  std::unique_ptr<Image> finish();  // checksums, header

 private:
  Header header_;
  std::vector<SectionEntry> entries_;
  std::unique_ptr<Image> image_;
  unsigned char* memory_ = nullptr;
};

}  // namespace ctcspeech::ngram
