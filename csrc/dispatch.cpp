#include "dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

#ifdef NPCONV_HAVE_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace npconv {
namespace {

struct Candidate {
    const char* name;
    const Kernels* kernels;
    const Bfloat16x3Kernels* bfloat16x3;
    bool (*supported)();
};

#ifdef NPCONV_HAVE_AVX512
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}
#endif

#ifdef NPCONV_HAVE_AMX
/// Linux gives a process the tile registers, 8 KiB that every change of threads has to save, only if it asks for them.
bool has_amx() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & amx_bf16) || !(d & amx_tile)) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

// Best first. __builtin_cpu_supports asks cpuid for the feature and xgetbv whether the operating system saves the
// registers that go with it.
const Candidate candidates[] = {
#ifdef NPCONV_HAVE_AMX
    {"amx", &kernels_avx512, &kernels_amx, has_amx},
#endif
#ifdef NPCONV_HAVE_AVX512
    {"avx512", &kernels_avx512, nullptr, has_avx512},
#endif
#ifdef NPCONV_HAVE_AVX2
    {"avx2", &kernels_avx2, nullptr, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
#ifdef NPCONV_HAVE_NEON
    {"neon", &kernels_neon, nullptr, [] { return true; }},  // part of aarch64
#endif
    {"baseline", &kernels_baseline, nullptr, [] { return true; }},
};

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

const Candidate& choose() {
    const char* forced = std::getenv("NPCONV_ISA");
    const bool any = !forced || !*forced;
    for (const Candidate& candidate : candidates) {
        if (any ? candidate.supported() : candidate.name == std::string(forced)) {
            if (candidate.supported()) return candidate;
            throw std::invalid_argument("NPCONV_ISA is '" + std::string(forced) +
                                        "', which this CPU lacks; it has: " + joined(supported_isas()));
        }
    }
    throw std::invalid_argument("NPCONV_ISA is '" + std::string(forced) +
                                "', which is not compiled in; there are: " + joined(compiled_isas()));
}

const Candidate& chosen() {
    static const Candidate& candidate = choose();
    return candidate;
}

}  // namespace

const char* isa_in_use() { return chosen().name; }

const Kernels& kernels() { return *chosen().kernels; }

const Bfloat16x3Kernels* bfloat16x3_kernels() { return chosen().bfloat16x3; }

std::vector<std::string> compiled_isas() {
    std::vector<std::string> names;
    for (const Candidate& candidate : candidates) names.push_back(candidate.name);
    return names;
}

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Candidate& candidate : candidates) {
        if (candidate.supported()) names.push_back(candidate.name);
    }
    return names;
}

}  // namespace npconv
