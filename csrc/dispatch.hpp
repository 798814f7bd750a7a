// Which instruction set serves: the best that is compiled in and that this CPU has.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.hpp"

namespace npconv {

/// The instruction set in use; the choice is made at the first call and stays. NPCONV_ISA forces one by name.
/// Throws std::invalid_argument if it names one that is unknown or that this CPU lacks.
const char* isa_in_use();

/// Its kernels.
const Kernels& kernels();

/// Its products of float32 by a unit for bfloat16; null if it has none.
const Bfloat16x3Kernels* bfloat16x3_kernels();

template <class T>
const TypedKernels<T>& kernels_of() {
    return kernels().of<T>();
}

/// The names of the instruction sets compiled in, the best first, and of those that this CPU has.
std::vector<std::string> compiled_isas();
std::vector<std::string> supported_isas();

}  // namespace npconv
