// The hashes of the binary format, and the sizing of its hash tables. Part of the format: a change needs a new version of it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ctcspeech::ngram {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the binary format is used in place");

inline uint64_t multiply_high(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}

// a * b / c, where b <= 2^40 or so and the result fits.
inline uint64_t multiply_divide(uint64_t a, uint64_t b, uint64_t c) {
  return (b >> 32) == 0 ? a * b / c
                        : static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b / c);
}

// A bucket in [0, buckets) from the high bits of a hash.
inline uint64_t bucket_of(uint64_t hash, uint64_t buckets) { return multiply_high(hash, buckets); }

// The key of an n-gram grows from its newest word to its oldest: key(w_n) = extend_key(seed, w_n),
// key(w_i .. w_n) = extend_key(key(w_{i+1} .. w_n), w_i).
inline uint64_t extend_key(uint64_t key, uint32_t word) {
  key = (key ^ ((static_cast<uint64_t>(word) + 1) * 0x9E3779B97F4A7C15ull)) * 0xD6E8FEB86659FD93ull;
  return key ^ (key >> 29);
}

// The same by KenLM, where a key begins as the newest word's number: for models that come from its
// binaries, whose n-grams are known by these keys alone.
inline uint64_t kenlm_extend_key(uint64_t key, uint32_t word) {
  return (key * 8978948897894561157ull) ^ ((static_cast<uint64_t>(word) + 1) * 17894857484156487943ull);
}

// Keys as they are stored and placed: mixed once more, and never 0, which marks an empty slot.
inline uint64_t stored_key(uint64_t key) {
  key *= 0xA0761D6478BD642Full;
  return key ? key : 1;
}

// A word's hash: 8 bytes at a time, each folded in by a multiplication (a wyhash-like mixer).
inline uint64_t hash_bytes(const char* bytes, size_t size) {
  uint64_t h = size * 0x9E3779B97F4A7C15ull;
  auto fold = [&](uint64_t chunk) {
    const unsigned __int128 product =
        static_cast<unsigned __int128>(h ^ chunk ^ 0xE7037ED1A0B428DBull) * 0xA0761D6478BD642Full;
    h = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  for (; size >= 8; bytes += 8, size -= 8) {
    uint64_t chunk;
    std::memcpy(&chunk, bytes, 8);
    fold(chunk);
  }
  uint64_t chunk = 0;
  if (size > 0) std::memcpy(&chunk, bytes, size);  // bytes may be null for the empty word
  fold(chunk);
  fold(size);
  return h;
}

// Checksum of a section or of the header: four independent lanes of multiply-and-rotate over 8-byte
// words (fast on long sections), folded at the end. Not cryptographic.
inline uint64_t checksum(const unsigned char* bytes, uint64_t size) {
  uint64_t lanes[4] = {0x243F6A8885A308D3ull, 0x13198A2E03707344ull, 0xA4093822299F31D0ull,
                       0x082EFA98EC4E6C89ull};
  const uint64_t total = size;
  auto mix = [](uint64_t lane, uint64_t chunk) {
    lane = (lane ^ chunk) * 0x9E3779B97F4A7C15ull;
    return (lane << 31) | (lane >> 33);
  };
  for (; size >= 32; bytes += 32, size -= 32) {
    uint64_t chunks[4];
    std::memcpy(chunks, bytes, 32);
    for (int i = 0; i < 4; ++i) lanes[i] = mix(lanes[i], chunks[i]);
  }
  for (int i = 0; size > 0; ++i) {
    const uint64_t take = size < 8 ? size : 8;
    uint64_t chunk = 0;
    std::memcpy(&chunk, bytes, take);
    lanes[i] = mix(lanes[i], chunk);
    bytes += take;
    size -= take;
  }
  uint64_t h = total;
  for (uint64_t lane : lanes) {
    h = mix(h, lane);
    h ^= h >> 32;
  }
  return h;
}

// How many slots must follow the last bucket, and how far from its bucket an entry can come to stand:
// the larger of the two, when hashes are inserted by linear probing without wrapping around. The
// slots that end up occupied do not depend on the order of insertion, and neither does this bound.
inline uint64_t overflow_slots(const std::vector<uint64_t>& hashes, uint64_t buckets) {
  std::vector<uint32_t> load(buckets, 0);
  for (uint64_t hash : hashes) ++load[bucket_of(hash, buckets)];
  uint64_t waiting = 0, longest = 0, run = 0;  // entries pushed on; length of the current full run
  for (uint64_t b = 0; b < buckets || waiting > 0; ++b) {
    if (b < buckets) waiting += load[b];
    run = waiting > 0 ? run + 1 : 0;
    longest = std::max(longest, run);
    if (waiting > 0) --waiting;
  }
  return longest + 1;
}

}  // namespace ctcspeech::ngram
