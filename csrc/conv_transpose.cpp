// Transposed convolution: the data gradient of a convolution, and its gradients the other way round.
#include "conv.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"

namespace npconv {

template <class T>
void channel_sums(index_t images, index_t channels, index_t plane, const T* x, T* sums) {
    parallel_for(channels, static_cast<double>(images * plane) * element_ns / 4, [&](index_t channel) {
        double sum = 0;
        for (index_t n = 0; n < images; ++n) sum += kernels_of<T>().sum(x + (n * channels + channel) * plane, plane);
        sums[channel] = static_cast<T>(sum);
    });
}

template <class T>
void conv_transpose2d_backward(const ConvShape& s, const T* dy, const T* x, const T* weight, T* dx, T* dweight,
                               T* dbias) {
    if (dx) conv2d_forward<T>(s, dy, weight, nullptr, dx);
    if (dweight) conv2d_backward_weight<T>(s, x, dy, dweight, nullptr);
    if (dbias) channel_sums(s.n, s.c, s.h * s.w, dy, dbias);
}

template void channel_sums(index_t, index_t, index_t, const float*, float*);
template void channel_sums(index_t, index_t, index_t, const double*, double*);
template void conv_transpose2d_backward(const ConvShape&, const float*, const float*, const float*, float*, float*,
                                        float*);
template void conv_transpose2d_backward(const ConvShape&, const double*, const double*, const double*, double*, double*,
                                        double*);

}  // namespace npconv
