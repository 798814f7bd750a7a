#include "dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

namespace npconv {
namespace {

struct Candidate {
    const Kernels* kernels;
    bool (*supported)();
};

// Best first. __builtin_cpu_supports asks cpuid for the feature and xgetbv whether the operating system saves the
// registers that go with it.
const Candidate candidates[] = {
#ifdef NPCONV_HAVE_AVX512
    {&kernels_avx512,
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("fma");
     }},
#endif
#ifdef NPCONV_HAVE_AVX2
    {&kernels_avx2, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
#ifdef NPCONV_HAVE_NEON
    {&kernels_neon, [] { return true; }},  // part of aarch64
#endif
    {&kernels_baseline, [] { return true; }},
};

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

const Kernels& choose() {
    const char* forced = std::getenv("NPCONV_ISA");
    const bool any = !forced || !*forced;
    for (const Candidate& candidate : candidates) {
        if (any ? candidate.supported() : candidate.kernels->name == std::string(forced)) {
            if (candidate.supported()) return *candidate.kernels;
            throw std::invalid_argument("NPCONV_ISA is '" + std::string(forced) +
                                        "', which this CPU lacks; it has: " + joined(supported_isas()));
        }
    }
    throw std::invalid_argument("NPCONV_ISA is '" + std::string(forced) +
                                "', which is not compiled in; there are: " + joined(compiled_isas()));
}

}  // namespace

const Kernels& kernels() {
    static const Kernels& chosen = choose();
    return chosen;
}

std::vector<std::string> compiled_isas() {
    std::vector<std::string> names;
    for (const Candidate& candidate : candidates) names.push_back(candidate.kernels->name);
    return names;
}

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Candidate& candidate : candidates) {
        if (candidate.supported()) names.push_back(candidate.kernels->name);
    }
    return names;
}

}  // namespace npconv
