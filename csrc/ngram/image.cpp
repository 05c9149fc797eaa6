#include "ngram/image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <tuple>

#include "ngram/hash.h"

namespace ctcspeech::ngram {

namespace {

constexpr uint32_t kMaxSections = 64;

uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

std::string hint() { return "; build it again with `ctcspeech lm convert` or `ctcspeech lm build`"; }

// Anonymous memory, in huge pages where the system has them: random reads then miss the TLB less.
unsigned char* allocate_pages(uint64_t size) {
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, size, MADV_HUGEPAGE);
#endif
  return static_cast<unsigned char*>(memory);
}

}  // namespace

std::unique_ptr<Image> Image::map(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw Error(path + ": " + std::strerror(errno));
  struct stat status {};
  if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
    close(file);
    throw Error(path + ": not a file that can be mapped, or empty");
  }
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  const int reason = errno;
  close(file);
  if (memory == MAP_FAILED) throw Error(path + ": " + std::strerror(reason));
  std::unique_ptr<Image> image(new Image);
  image->data_ = static_cast<unsigned char*>(memory);
  image->size_ = size;
  image->mapped_ = true;
  image->check_header(path);
  return image;
}

std::unique_ptr<Image> Image::copy(const void* bytes, uint64_t size, const std::string& name) {
  if (size == 0) throw Error(name + ": empty");
  std::unique_ptr<Image> image(new Image);
  unsigned char* memory = allocate_pages(size);
  image->data_ = memory;
  image->size_ = size;
  std::memcpy(memory, bytes, size);
  image->check_header(name);
  return image;
}

Image::~Image() {
  if (data_) munmap(const_cast<unsigned char*>(data_), size_);
}

void Image::fail(const std::string& what) const { throw Error(name_ + ": " + what); }

void Image::check_header(const std::string& name) {
  name_ = name;
  if (size_ < sizeof(Header) + 8 || std::memcmp(data_, kMagic, sizeof kMagic) != 0)
    fail("not a binary language model of ctcspeech, or shorter than its header");
  std::memcpy(&header_, data_, sizeof header_);
  if (header_.byte_order != kByteOrder) fail("written on a machine of another byte order" + hint());
  if (header_.version != kVersion)
    fail("format version " + std::to_string(header_.version) + ", but this release reads version " +
         std::to_string(kVersion) + hint());
  const uint64_t head = sizeof(Header) + uint64_t{header_.section_count} * sizeof(SectionEntry);
  if (header_.section_count > kMaxSections || size_ < head + 8) fail("the header is damaged" + hint());
  uint64_t expected;
  std::memcpy(&expected, data_ + head, 8);
  if (checksum(data_, head) != expected)
    fail("the header is damaged (its checksum does not match)" + hint());
  fingerprint_ = expected;
  if (header_.file_size != size_)
    fail("has " + std::to_string(size_) + " bytes but should have " +
         std::to_string(header_.file_size) + ": truncated, or changed" + hint());
  // The checksum is not a signature: what follows guards against a file made to deceive.
  if (header_.kind != static_cast<uint32_t>(Kind::kProbing) &&
      header_.kind != static_cast<uint32_t>(Kind::kTrie))
    fail("of unknown kind " + std::to_string(header_.kind));
  if ((header_.flags & ~(kHasUnknown | kKenlmKeys)) != 0) fail("flags in the header are unknown");
  if (header_.order < 1 || header_.order > kMaxOrder)
    fail("order " + std::to_string(header_.order) + " is not from 1 to " + std::to_string(kMaxOrder));
  if (header_.vocabulary_size < 1 || header_.vocabulary_size >= kEmptySlot ||
      header_.bos >= header_.vocabulary_size || header_.eos >= header_.vocabulary_size)
    fail("the vocabulary in the header is damaged");
  entries_.resize(header_.section_count);
  if (!entries_.empty())
    std::memcpy(entries_.data(), data_ + sizeof(Header), head - sizeof(Header));
  for (const SectionEntry& entry : entries_)
    if (entry.offset % kAlignment != 0 || entry.offset < head + 8 || entry.offset > size_ ||
        entry.size > size_ - entry.offset)
      fail("section " + std::to_string(entry.id) + " lies outside of the file");
}

Section Image::section(SectionId id, uint32_t order, uint64_t bytes) const {
  for (const SectionEntry& entry : entries_) {
    if (entry.id != id || entry.order != order) continue;
    if (bytes != kAnySize && entry.size != bytes)
      fail("section " + std::to_string(id) + " of order " + std::to_string(order) + " has " +
           std::to_string(entry.size) + " bytes but should have " + std::to_string(bytes));
    return {data_ + entry.offset, entry.size, entry.extra};
  }
  fail("section " + std::to_string(id) + " of order " + std::to_string(order) + " is missing");
}

void Image::verify() const {
  for (const SectionEntry& entry : entries_)
    if (checksum(data_ + entry.offset, entry.size) != entry.checksum)
      fail("section " + std::to_string(entry.id) + " of order " + std::to_string(entry.order) +
           " is damaged (its checksum does not match)" + hint());
}

void ImageBuilder::announce(SectionId id, uint32_t order, uint64_t size, uint64_t extra) {
  entries_.push_back({id, order, 0, size, extra, 0});
}

void ImageBuilder::allocate() {
  std::sort(entries_.begin(), entries_.end(), [](const SectionEntry& a, const SectionEntry& b) {
    return std::tie(a.id, a.order) < std::tie(b.id, b.order);
  });
  uint64_t offset = sizeof(Header) + entries_.size() * sizeof(SectionEntry) + 8;
  for (SectionEntry& entry : entries_) {
    offset = round_up(offset, kAlignment);
    entry.offset = offset;
    offset += entry.size;
  }
  memory_ = allocate_pages(offset);
  image_.reset(new Image);
  image_->data_ = memory_;
  image_->size_ = offset;
}

unsigned char* ImageBuilder::section(SectionId id, uint32_t order) {
  for (const SectionEntry& entry : entries_)
    if (entry.id == id && entry.order == order) return memory_ + entry.offset;
  throw std::logic_error("a section that was not announced");
}

std::unique_ptr<Image> ImageBuilder::finish() {
  std::memcpy(header_.magic, kMagic, sizeof kMagic);
  header_.version = kVersion;
  header_.byte_order = kByteOrder;
  header_.section_count = static_cast<uint32_t>(entries_.size());
  header_.file_size = image_->size_;
  for (SectionEntry& entry : entries_)
    entry.checksum = checksum(memory_ + entry.offset, entry.size);
  const uint64_t table = entries_.size() * sizeof(SectionEntry);
  std::memcpy(memory_, &header_, sizeof header_);
  std::memcpy(memory_ + sizeof header_, entries_.data(), table);
  const uint64_t sum = checksum(memory_, sizeof header_ + table);
  std::memcpy(memory_ + sizeof header_ + table, &sum, 8);
  image_->check_header("the model in memory");
  return std::move(image_);
}

}  // namespace ctcspeech::ngram
