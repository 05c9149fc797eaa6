// Which instruction sets the machine that runs this has.
#pragma once

namespace ctcspeech {

enum class Isa { kBaseline = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3 };

const char* isa_name(Isa isa);
bool isa_available(Isa isa);  // compiled in, and this machine has it
Isa best_isa();               // the fastest available

}  // namespace ctcspeech
