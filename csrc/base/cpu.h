// Which instruction sets the machine that runs this has.
#pragma once

namespace ctcspeech {

enum class Isa { kBaseline = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3 };

const char* isa_name(Isa isa);
bool isa_available(Isa isa);  // compiled in, and this machine has it
Isa chosen_isa(int wish);     // an Isa that is available, or for -1 the fastest

// What is compiled once for each instruction set stands in files part_<isa>.cpp, each of which offers a
// table of its functions by part_<isa>(). CTCSPEECH_BY_ISA(part, wish) is the one to use: the only place
// that chooses. In those files everything else is in an unnamed namespace: of an inline function with
// external linkage the linker would keep any one copy, perhaps one that this machine cannot run.
template <class Table>
Table by_isa(int wish, Table (*baseline)(), Table (*avx2)(), Table (*avx512)(), Table (*neon)()) {
  switch (chosen_isa(wish)) {
    case Isa::kAvx2: return avx2();
    case Isa::kAvx512: return avx512();
    case Isa::kNeon: return neon();
    default: return baseline();
  }
}
#if defined(__x86_64__)
#define CTCSPEECH_BY_ISA(part, wish) \
  by_isa(wish, part##_baseline, part##_avx2, part##_avx512, part##_baseline)
#elif defined(__aarch64__)
#define CTCSPEECH_BY_ISA(part, wish) \
  by_isa(wish, part##_baseline, part##_baseline, part##_baseline, part##_neon)
#else
#define CTCSPEECH_BY_ISA(part, wish) part##_baseline()
#endif

}  // namespace ctcspeech
